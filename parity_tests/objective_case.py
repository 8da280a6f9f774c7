"""The declaration of a case of an objective, and three steps of training with it on each side.

A case is one of a model (see case.py) whose `inputs` are positional arguments, images or several views of them,
and whose further arguments change from step to step: draws, labels, temperatures. What both sides are given is
made by numpy from the case's name. The optimizer is the same on both sides, in float64.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import jax
import numpy as np
import optax
import torch
from flax import linen as nn
from flax.traverse_util import flatten_dict

import vit_flax
from parity_tests import objectives
from parity_tests.bridge import Pair, channels_second, example_inputs, randomise, relative_error, rng_of
from parity_tests.case import Case, Refused, Submodule
from parity_tests.compare import first_difference
from vit_flax.weights.table import build_table

STEPS = 3
OPTIMIZERS = {
    'adamw': (
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
        optax.adamw(1e-2, weight_decay=0.1),
    ),
    'sgd': (
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
        optax.sgd(1e-2, momentum=0.9),
    ),
}

Draw = Callable[[np.random.Generator], Mapping[str, Any]]


def nothing(rng: np.random.Generator) -> Mapping[str, Any]:
    return {}


def normal_values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


@dataclass(frozen=True, kw_only=True)
class ObjectiveCase(Case):
    """One configuration of one objective; for what is not here see `Case`.

    Attributes:
      draw: further arguments of both calls in one step, made with a numpy generator: arrays, the same on both
        sides. What never changes stands in `call`, what is no array in `options`.
      values: of an input, from a generator and the shape.
      optimizer: 'adamw' or 'sgd'.
      post_update: the reference's method to be called after each step of the optimizer, upstream's name of it; the
        objective's is `post_update(variables)`.
      encoder: the argument of the constructor that is the encoder; None if there is none.
      upstream_prepare: what must happen to upstream's model before it has all of its parameters.
      upstream_mend: what must happen to upstream's model, weights loaded, so that it does not fail with
        `upstream_fails`; the only way in which the two then differ.
    """

    draw: Draw = nothing
    values: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] = normal_values
    optimizer: str = 'adamw'
    post_update: str = ''
    encoder: str | None = 'encoder'
    upstream_prepare: Callable[[torch.nn.Module], None] | None = None
    upstream_mend: Callable[[torch.nn.Module], None] | None = None
    train: bool = True

    folder: ClassVar[str] = 'objectives'

    def at(self, step: int) -> 'ObjectiveCase':
        """The case with the draws of one step among its arguments."""
        return replace(self, call={**self.call, **self.draw(rng_of(self, f'draws {step}'))})

    def batch(self, step: int) -> list[np.ndarray]:
        """What the objective is called with in one step."""
        rng = rng_of(self, f'batch {step}')
        return [self.values(rng, spec.shape) for spec in self.inputs]

    def encoder_argument(self) -> Submodule:
        return self.kwargs[self.encoder or '']


def stems() -> list[str]:
    return [info.name for info in pkgutil.iter_modules(objectives.__path__)]


def case_file(stem: str) -> ModuleType:
    """Holds `OBJECTIVE`, the name of the main class, `CASES` and `REFUSED`."""
    return importlib.import_module(f'{objectives.__name__}.{stem}')


@cache
def all_objective_cases() -> tuple[ObjectiveCase, ...]:
    return tuple(
        replace(case, stem=stem, model=case.model or case_file(stem).OBJECTIVE)
        for stem in stems()
        for case in case_file(stem).CASES
    )


@cache
def first_objective_cases() -> tuple[ObjectiveCase, ...]:
    """The first case of each file: the one for checks that every objective needs once."""
    return tuple({case.stem: case for case in reversed(all_objective_cases())}.values())[::-1]


@cache
def encoder_cases() -> tuple[ObjectiveCase, ...]:
    """All whose encoder comes out again."""
    return tuple(case for case in all_objective_cases() if case.encoder)


@cache
def all_objective_refusals() -> tuple[Refused, ...]:
    return tuple(
        replace(refused, stem=stem, folder='objectives', model=refused.model or case_file(stem).OBJECTIVE)
        for stem in stems()
        for refused in case_file(stem).REFUSED
    )


@dataclass
class Step:
    """What one step computed: outputs, gradients of the parameters, and the state after it, each by name."""

    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]


@dataclass
class Training:
    """Three steps and the parameters they lead to."""

    steps: list[Step]
    parameters: dict[str, np.ndarray]


@dataclass
class ObjectivePair(Pair):
    """The objective on both sides with the same weights, inputs and draws of the first step."""

    def trained(self) -> list[str]:
        """Torch's names of all parameters that the optimizer sees."""
        return [name for entry in self.table.entries if entry.path[0] == 'params' for name in entry.names]

    def in_flax_names(self, training: Training) -> Training:
        """Torch's training in the names and layout of ours."""
        parameters = [entry for entry in self.table.entries if entry.path[0] == 'params']
        states = [entry for entry in self.table.entries if entry.path[0] != 'params']

        def convert(entries, arrays):
            return {'/'.join(entry.path[entry.path[0] == 'params' :]): entry.to_flax(arrays) for entry in entries}

        steps = [
            Step(step.outputs, convert(parameters, step.gradients), convert(states, step.state))
            for step in training.steps
        ]
        return Training(steps, convert(parameters, training.parameters))


def make_objective_pair(case: ObjectiveCase, **flax_extra: Any) -> ObjectivePair:
    """Builds both objectives in float64 and loads the reference's random weights into Flax."""
    case = case.at(0)
    reference = case.torch_model().double()
    randomise(reference, rng_of(case, 'weights'))
    reference.train(case.train)
    model = case.flax_model(**flax_extra)
    call = {**case.call, **case.options}
    shapes = example_inputs(case)
    variables = vit_flax.from_torch(model, reference.state_dict(), *shapes, source='vit_pytorch', **call)
    table = build_table(model, *shapes, **call)
    return ObjectivePair(case, model, reference, variables, table, case.batch(0))


def torch_batch(case: ObjectiveCase, step: int) -> list[torch.Tensor]:
    layouts = (spec.layout for spec in case.inputs)
    return [
        torch.from_numpy(channels_second(array, layout))
        for array, layout in zip(case.batch(step), layouts, strict=True)
    ]


def train_torch(
    model: torch.nn.Module, case: ObjectiveCase, trained: list[str], patched: ModuleType | None = None
) -> Training:
    """Three steps of the reference, or of upstream with its draws in the module `patched` replaced."""
    entries = model.state_dict(keep_vars=True)
    parameters = {name: entries[name] for name in trained}
    make, _ = OPTIMIZERS[case.optimizer]
    optimizer = make(list({id(parameter): parameter for parameter in parameters.values()}.values()))
    steps = []
    for index in range(STEPS):
        now = case.at(index)
        call, patches = now.torch_call(), {}
        if patched:
            patches = now.upstream_patch(patched, call) if now.upstream_patch else {}
            # a draw that upstream takes no argument for is patched into it
            takes = inspect.signature(model.forward).parameters
            call = {name: value for name, value in call.items() if name in takes}
        with mock.patch.multiple(patched, **patches) if patches else nullcontext():
            result = model(*torch_batch(now, index), **call)
        outputs = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, torch.Tensor)]
        optimizer.zero_grad()
        outputs[0].backward()
        for parameter in parameters.values():
            if parameter.grad is None:
                # torch's optimizers pass over what has no gradient, optax's decay it with the rest
                parameter.grad = torch.zeros_like(parameter)
        gradients = {name: parameter.grad.numpy().copy() for name, parameter in parameters.items()}
        optimizer.step()
        if case.post_update:
            getattr(model, case.post_update)()
        state = {name: value.numpy().copy() for name, value in model.state_dict().items() if name not in parameters}
        steps.append(
            Step({f'output {i}': leaf.detach().numpy().copy() for i, leaf in enumerate(outputs)}, gradients, state)
        )
    return Training(steps, {name: parameter.detach().numpy() for name, parameter in parameters.items()})


def train_flax(pair: ObjectivePair) -> Training:
    """The same of the objective, each step compiled."""
    case, model = pair.case, pair.flax
    _, optimizer = OPTIMIZERS[case.optimizer]
    params = pair.variables['params']
    state = {name: tree for name, tree in pair.variables.items() if name != 'params'}
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, state, opt_state, inputs, call):
        (_, (outputs, state)), gradients = jax.value_and_grad(
            lambda params: loss_and_rest(model, {'params': params, **state}, inputs, case, call), has_aux=True
        )(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        variables = {'params': optax.apply_updates(params, updates), **state}
        variables = model.post_update(variables)
        state = {name: tree for name, tree in variables.items() if name != 'params'}
        return variables['params'], state, opt_state, outputs, gradients

    steps = []
    for index in range(STEPS):
        call = dict(case.at(index).call)
        params, state, opt_state, outputs, gradients = step(params, state, opt_state, case.batch(index), call)
        named = {f'output {i}': np.asarray(leaf) for i, leaf in enumerate(outputs)}
        steps.append(Step(named, flatten_dict(gradients, sep='/'), flatten_dict(state, sep='/')))
    return Training(steps, flatten_dict(params, sep='/'))


def loss_and_rest(
    model: nn.Module, variables: Mapping[str, Any], inputs: list[Any], case: ObjectiveCase, call: Mapping[str, Any]
) -> tuple[jax.Array, tuple[list[jax.Array], Mapping[str, Any]]]:
    """The loss, which is the first output, all outputs, and the new state."""
    mutable = [name for name in variables if name != 'params']
    result, state = model.apply(variables, *inputs, train=case.train, mutable=mutable, **call, **case.options)
    outputs = jax.tree.leaves(result)
    # what a call does not touch is not returned
    untouched = {name: variables[name] for name in mutable if name not in state}
    return outputs[0], (outputs, {**untouched, **state})


@dataclass(frozen=True)
class ObjectiveReport:
    """Relative errors by name in the order of their making; `unused` are parameters that no gradient reached."""

    loss: dict[str, float]
    gradients: dict[str, float]
    state: dict[str, float]
    parameters: dict[str, float]
    unused: tuple[str, ...]

    @property
    def in_order(self) -> dict[str, float]:
        """All of them, step by step."""
        names = [*self.loss, *self.gradients, *self.state, *self.parameters]
        every = {**self.loss, **self.gradients, **self.state, **self.parameters}
        return {name: every[name] for name in sorted(names, key=lambda name: name.partition(':')[0])}

    @property
    def worst(self) -> float:
        return max(self.in_order.values())


def measure(case: ObjectiveCase, got: Training, want: Training) -> ObjectiveReport:
    """Compares two trainings in the same names."""
    loss, gradients, state = {}, {}, {}
    for index, (mine, theirs) in enumerate(zip(got.steps, want.steps, strict=True), start=1):
        for kind, errors in (('outputs', loss), ('gradients', gradients), ('state', state)):
            ours, wanted = getattr(mine, kind), getattr(theirs, kind)
            if ours.keys() != wanted.keys():
                raise AssertionError(f'{case.id}: other {kind}: {sorted(ours.keys() ^ wanted.keys())}')
            floor = 0.0
            if kind == 'gradients':
                # a gradient that is zero but for rounding has no scale of its own
                floor = 1e-4 * max(np.abs(array).max() for array in wanted.values() if array.size)
            for name, array in wanted.items():
                if np.size(ours[name]) != array.size:
                    raise AssertionError(f'{case.id}: {name} is {np.shape(ours[name])}, not {array.shape}')
                key = f'step {index}: {"" if kind == "outputs" else kind + " of "}{name}'
                errors[key] = relative_error(np.reshape(ours[name], array.shape), array, floor)
    parameters = {
        f'step {STEPS} done: parameter {name}': relative_error(np.reshape(got.parameters[name], array.shape), array)
        for name, array in want.parameters.items()
    }
    unused = [
        name
        for name, array in want.steps[0].gradients.items()
        if array.size and not any(step.gradients[name].any() for step in want.steps)
    ]
    return ObjectiveReport(loss, gradients, state, parameters, tuple(unused))


def compare(case: ObjectiveCase, **flax_extra: Any) -> tuple[ObjectiveReport, ObjectivePair]:
    """Three steps of both sides."""
    pair = make_objective_pair(case, **flax_extra)
    got = train_flax(pair)
    want = pair.in_flax_names(train_torch(pair.torch, case, pair.trained()))
    return measure(case, got, want), pair


def check(case: ObjectiveCase, **flax_extra: Any) -> ObjectiveReport:
    """Raises an AssertionError that names what differs first."""
    report, pair = compare(case, **flax_extra)
    count = sum(leaf.size for leaf in jax.tree.leaves(pair.variables.get('params', {})))
    if count != case.parameters:
        raise AssertionError(f'{case.id} has {count} parameters, its case says {case.parameters}')
    problems = [f'{name}: {error:.1e}' for name, error in report.in_order.items() if not error <= case.tolerance]
    if problems:
        fresh = make_objective_pair(case, **flax_extra)
        lines = [f'{case.id} differs from torch by more than {case.tolerance:.0e}, first in', *problems[:8]]
        lines += [f'... and {len(problems) - 8} more'] if len(problems) > 8 else []
        raise AssertionError('\n  '.join([*lines, first_difference(fresh)]))
    names = ['/'.join(path) for path in flatten_dict(pair.variables['params'])]
    declared = {name for name in names if any(re.fullmatch(pattern, name) for pattern in case.unused)}
    stray = declared ^ set(report.unused)
    if stray:
        raise AssertionError(f'{case.id}: `unused` and the gradients disagree on {sorted(stray)}')
    return report


def prepared_upstream(case: ObjectiveCase, witness: torch.nn.Module, mend: bool = True) -> torch.nn.Module:
    """Upstream's model in float64 with the reference's weights, which it must take strictly."""
    model = case.upstream_model().double()
    if case.upstream_prepare:
        case.upstream_prepare(model)
    model.load_state_dict(witness.state_dict(), strict=True)
    model.train(case.train)
    if mend and case.upstream_mend:
        case.upstream_mend(model)
    return model
