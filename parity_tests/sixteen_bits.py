"""How exact a model is in 16 bits, beside PyTorch in the same dtype: `python -m parity_tests.sixteen_bits`.

Parity is proved in float64, where no rounding shows. Here both sides run in bfloat16 or float16 with weights and
inputs that are exact in that dtype and look like those of a trained network: channels with means, tokens with a
common part. What is measured is the distance of the outputs and of every gradient from PyTorch in float64, relative
to the exact result, as geometric mean over several draws: a token that happens to have no variance, which LayerNorm
divides by, makes one draw a hundred times worse than all others on either side.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax._src import source_info_util

from parity_tests.bridge import (
    Pair,
    apply_flax,
    channels_back,
    channels_last,
    channels_second,
    example_inputs,
    make_pair,
    rng_of,
)
from parity_tests.case import Case, first_cases
from parity_tests.objective_case import ObjectiveCase, first_objective_cases, loss_and_rest, make_objective_pair

DTYPES = {'bfloat16': (jnp.bfloat16, torch.bfloat16), 'float16': (jnp.float16, torch.float16)}
# relative error of one correctly rounded number: nobody is asked for less
ROUNDING = {'bfloat16': 2.0**-9, 'float16': 2.0**-12}
BOUND = 1.5
# what stands for the error of a result that is not finite
INFINITE = 1e9


class Unmeasured(Exception):
    """There is nothing to compare with: PyTorch has no such operation, not even by autocasting."""


@dataclass(frozen=True)
class Errors:
    """Typical errors of one output or gradient, relative to the exact one."""

    ours: float
    torch: float

    @property
    def ratio(self) -> float:
        """Ours over PyTorch's; at most `BOUND` is right."""
        return self.ours / self.torch

    @property
    def comparable(self) -> bool:
        """Whether PyTorch has a digit right; a gradient that is nothing but rounding errors compares nothing."""
        return self.torch < 0.5


@dataclass(frozen=True)
class Measured:
    """Errors of one case by name; `autocast`: PyTorch cannot run it in the dtype throughout, only by autocasting."""

    errors: dict[str, Errors]
    autocast: bool

    @property
    def outputs(self) -> Errors:
        """Of the first output."""
        return self.errors['output 0']

    @property
    def ratios(self) -> dict[str, float]:
        """Of all that can be compared."""
        return {name: errors.ratio for name, errors in self.errors.items() if errors.comparable}

    @property
    def too_inexact(self) -> dict[str, float]:
        """Those beyond the bound."""
        return {name: ratio for name, ratio in self.ratios.items() if ratio > BOUND}


def as_trained(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Gives random weights the common parts of a trained network: biases and tables whose entries share a mean."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2 and name.endswith('weight'):
                continue
            if value.numel() > 1:
                last = torch.from_numpy(rng.normal(size=value.shape[-1:]))
                value += last if value.ndim > 1 or name.endswith('bias') else 0.3 * last


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """To the nearest numbers of the dtype, in float64."""
    floats = np.issubdtype(array.dtype, np.floating)
    return np.asarray(np.asarray(array, DTYPES[dtype][0]), np.float64) if floats else array


def inputs_as_trained(pair: Pair, draw: int, dtype: str) -> list[np.ndarray]:
    """Images whose channels have means larger than what varies."""
    rng = rng_of(pair.case, f'sixteen bits {draw}')
    if isinstance(pair.case, ObjectiveCase):
        return [rounded(array, dtype) for array in pair.case.batch(draw)]
    inputs = []
    for spec in pair.case.inputs:
        spread = rng.normal(size=spec.shape)
        if np.issubdtype(spread.dtype, np.floating):
            spread += 2 * rng.normal(size=spec.shape[-1:])
        inputs.append(rounded(spread, dtype))
    return inputs


def cast(tree: Any, dtype: torch.dtype) -> Any:
    return jax.tree.map(lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x, tree)


def torch_run(
    pair: Pair,
    inputs: Sequence[np.ndarray],
    seeds: Sequence[np.ndarray] | None,
    dtype: torch.dtype,
    autocast: bool = False,
) -> tuple[list[np.ndarray], dict[str, np.ndarray], Sequence[np.ndarray]]:
    """Outputs, gradients by name and cotangents in float64, of the reference computing in `dtype`.

    Args:
      pair: its `torch` has weights of any dtype.
      inputs: of the call.
      seeds: cotangents of the outputs; None draws them, a loss has one.
      dtype: of weights and inputs.
      autocast: keep weights and inputs in float32 and let torch choose what runs in `dtype`.
    """
    case, stored = pair.case, torch.float32 if autocast else dtype
    layouts = (spec.layout for spec in case.inputs)
    model = pair.torch.to(stored)
    tensors = [
        torch.from_numpy(channels_second(array, layout)).to(stored).requires_grad_()
        for array, layout in zip(inputs, layouts, strict=True)
    ]
    with torch.autocast('cpu', dtype if autocast else torch.bfloat16, enabled=autocast):
        result = model(*case.arguments(tensors), **cast(case.torch_call(), stored))
    leaves = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    objective = isinstance(case, ObjectiveCase)
    leaves = leaves[:1] if objective else leaves
    outputs = [channels_last(leaf.detach().double().numpy(), case.feature_maps) for leaf in leaves]
    if seeds is None:
        rng = rng_of(case, 'cotangents')
        seeds = [np.ones(output.shape) if objective else rng.normal(size=output.shape) for output in outputs]
    back = [
        torch.from_numpy(np.asarray(channels_back(seed, case.feature_maps))).to(leaf.dtype)
        for seed, leaf in zip(seeds, leaves, strict=True)
    ]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(leaves, list(parameters.values()), back, allow_unused=True)
    by_name = dict(zip(parameters, grads, strict=True))
    arrays = {
        name: np.zeros(tuple(p.shape)) if by_name.get(name) is None else by_name[name].double().numpy()
        for name, p in model.named_parameters()
    }
    entries = [entry for entry in pair.table.entries if entry.path[0] == 'params']
    return outputs, {'/'.join(entry.path[1:]): entry.to_flax(arrays) for entry in entries}, seeds


def forward(pair: Pair, variables: Any, inputs: Sequence[Any], draws: Mapping[str, Any]) -> list[jax.Array]:
    """What is compared of the outputs of the Flax model: the loss of an objective, all that are floats of a model."""
    if isinstance(pair.case, ObjectiveCase):
        return [loss_and_rest(pair.flax, variables, [*inputs], pair.case, draws)[0]]
    output, _ = apply_flax(pair, variables, inputs, draws)
    return [leaf for leaf in jax.tree.leaves(output) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def flax_run(pair: Pair, dtype: str, half_parameters: bool) -> Callable[..., Any]:
    """A compiled function of inputs and cotangents to outputs and gradients; parameters in float32 or in `dtype`."""
    low = DTYPES[dtype][0]

    def floats(tree, dtype):
        return jax.tree.map(
            lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x, tree
        )

    params = floats(pair.variables['params'], low if half_parameters else jnp.float32)
    others = floats({name: tree for name, tree in pair.variables.items() if name != 'params'}, jnp.float32)
    draws = floats(dict(pair.case.call), low)

    @jax.jit
    def run(params, others, inputs, draws, seeds):
        outputs, pull_back = jax.vjp(lambda params: forward(pair, {'params': params, **others}, inputs, draws), params)
        (grads,) = pull_back([jnp.asarray(s, leaf.dtype) for s, leaf in zip(seeds, outputs, strict=True)])
        return outputs, grads

    def call(inputs, seeds):
        outputs, grads = jax.device_get(run(params, others, floats(list(inputs), low), draws, list(seeds)))
        return [np.asarray(leaf, np.float64) for leaf in outputs], {
            '/'.join(str(key.key) for key in path): np.asarray(leaf, np.float64)
            for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
        }

    return call


def measure(case: Case, dtype: str, half_parameters: bool = False, draws: int = 32) -> Measured:
    """Errors of each output and gradient by name; those that are zero but for rounding are left out."""
    low, extra = DTYPES[dtype][1], {'dtype': DTYPES[dtype][0]}
    pair = make_objective_pair(case, **extra) if isinstance(case, ObjectiveCase) else make_pair(case, **extra)
    as_trained(pair.torch, rng_of(case, 'common parts'))
    # all three start from the same numbers
    state = pair.torch.state_dict().items()
    exact = {name: value.to(low).double() if value.is_floating_point() else value for name, value in state}
    pair.variables = variables_of(pair, {name: value.numpy().copy() for name, value in exact.items()})
    ours = flax_run(pair, dtype, half_parameters)

    def theirs(inputs, seeds, dtype, autocast=False):
        pair.torch.double().load_state_dict(exact)
        return torch_run(pair, inputs, seeds, dtype, autocast)

    autocast = False
    logs: dict[str, list[np.ndarray]] = {}
    seeds: list[np.ndarray] | None = None
    for draw in range(draws):
        inputs = inputs_as_trained(pair, draw, dtype)
        if seeds is None:
            seeds = [rounded(seed, dtype) for seed in theirs(inputs, None, torch.float64)[2]]
        outputs, gradients, _ = theirs(inputs, seeds, torch.float64)
        try:
            reference = theirs(inputs, seeds, low, autocast)
        except RuntimeError:
            # torch has no complex numbers and no Fourier transform of these dtypes
            autocast = True
            try:
                reference = theirs(inputs, seeds, low, autocast)
            except RuntimeError as error:
                raise Unmeasured(f'PyTorch cannot run {case.id} in {dtype}: {error}') from error
        mine = ours(inputs, seeds)
        named = [(f'output {i}', output, mine[0][i], reference[0][i]) for i, output in enumerate(outputs)]
        named += [(name, grad, mine[1][name], reference[1][name]) for name, grad in gradients.items()]
        largest = max((np.abs(grad).max() for grad in gradients.values() if grad.size), default=0.0)
        for name, want, *got in named:
            size = np.linalg.norm(want)
            if size > 0 and (name not in gradients or np.abs(want).max() >= 1e-6 * largest):
                errors = [max(np.linalg.norm(array - want) / size, ROUNDING[dtype]) for array in got]
                logs.setdefault(name, []).append(
                    np.log([error if np.isfinite(error) else INFINITE for error in errors])
                )
    errors = {name: Errors(*map(float, np.exp(np.mean(rows, axis=0)))) for name, rows in logs.items()}
    return Measured(errors, autocast)


def variables_of(pair: Pair, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables of Flax with these arrays of torch's names."""
    variables: dict[str, Any] = {}
    for entry in pair.table.entries:
        node = variables
        for part in entry.path[:-1]:
            node = node.setdefault(part, {})
        node[entry.path[-1]] = entry.to_flax(arrays)
    return variables


# What adds up many elements. A product of matrices is not among them: it adds in float32 whatever its factors are.
SUMS = ('reduce_sum', 'reduce_window_sum', 'cumsum', 'scatter-add')


def narrow_sums(case: Case, dtype: str = 'bfloat16') -> list[str]:
    """Sums over 16-bit elements in outputs and gradients, as `operation of shape at file:line`; there must be none.

    Added up in 16 bits, 150,000 ones are 40,960. A test with a batch of two cannot see it, the traced program shows it.
    """
    low = DTYPES[dtype][0]
    case = case.at(0) if isinstance(case, ObjectiveCase) else case
    model = case.flax_model(dtype=low, param_dtype=low)
    call = {**case.call, **case.options} if isinstance(case, ObjectiveCase) else {}

    def narrow(tree):
        def shape(x):
            floats = jnp.issubdtype(jnp.result_type(x), jnp.floating)
            return jax.ShapeDtypeStruct(np.shape(x), low if floats else jnp.result_type(x))

        return jax.tree.map(shape, tree)

    keys = {name: jax.random.key(0) for name in ('params', 'mask', 'dropout', 'drop_path', 'tokens')}
    variables = jax.eval_shape(lambda inputs: model.init(keys, *inputs, **call), narrow(example_inputs(case)))
    params, others = variables['params'], {name: tree for name, tree in variables.items() if name != 'params'}
    kept = {leaf.dtype for leaf in jax.tree.leaves(params)}
    if kept != {jnp.dtype(low)}:
        raise AssertionError(f'{case.id}: with param_dtype={dtype} there are parameters of {kept}')
    pair = Pair(case, model, None, variables, None, [])

    def loss(params, inputs, draws):
        outputs = forward(pair, {'params': params, **others_in}, inputs, draws)
        return sum((leaf.astype(jnp.float32) ** 2).mean() for leaf in outputs)

    others_in = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), others)
    inputs = [jax.ShapeDtypeStruct(spec.shape, low) for spec in case.inputs]
    traced = jax.make_jaxpr(jax.grad(loss))(params, inputs, narrow(dict(case.call)))
    return sorted(set(_narrow_sums(traced.jaxpr)))


def _narrow_sums(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in SUMS and _adds_up(equation):
            shape, place = equation.invars[0].aval.str_short(), source_info_util.summarize(equation.source_info)
            yield f'{equation.primitive.name} of {shape} at {place}'
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')):
            if hasattr(inner, 'eqns') or hasattr(inner, 'jaxpr'):
                yield from _narrow_sums(getattr(inner, 'jaxpr', inner))


def _adds_up(equation: Any) -> bool:
    """Whether this sum is of 16-bit elements, and of more than one."""
    operand, result = equation.invars[0].aval, equation.outvars[0].aval
    if operand.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    if equation.primitive.name == 'scatter-add':
        # rows of a sequence by `take_along_axis` are taken once each
        return not equation.params['dimension_numbers'].operand_batching_dims
    return equation.primitive.name != 'reduce_sum' or math.prod(operand.shape) > math.prod(result.shape)


HEADER = f"""# Sixteen bits

How far outputs and gradients in bfloat16 and float16 are from PyTorch in float64, beside PyTorch in the same dtype:
typical errors relative to the exact result, over {{draws}} draws of inputs and cotangents, with weights and inputs as
a trained network has them (means, common parts; parameters in float32, all numbers exact in 16 bits). A ratio below 1
is better than PyTorch; at most {BOUND} is asked of every output and gradient. Gradients of which PyTorch has no digit
right are left out. *autocast*: PyTorch has no complex numbers or Fourier transforms of the dtype and is run by
autocasting, which keeps the residual stream and the last norm in float32: a stricter measure, to which nothing is
held. Networks with many kinks and convolutions (MobileViT) need more draws to be told from chance: `--draws 80`.

Written by `python -m parity_tests.sixteen_bits`{{processor}}. The tests run one model of each family, and read from the
traced program of every model and objective that nothing is added up in 16 bits.

| model | dtype | output: ours | PyTorch | gradients: median ratio | largest ratio, of | |
|---|---|--:|--:|--:|---|---|
"""


def named(case: Case) -> str:
    """A model or an objective, as the table has it."""
    return f'`{case.stem}`' + ('' if case.folder == 'models' else ' (objective)')


def said(error: float) -> str:
    """A typical error in a cell."""
    return f'{error:.1e}' if error < INFINITE / 1e3 else 'not finite'


def row(case: Case, dtype: str, measured: Measured) -> str:
    """A line of the table."""
    ratios = measured.ratios
    worst = max(ratios, key=lambda name: ratios[name])
    gradients = [ratio for name, ratio in ratios.items() if not name.startswith('output ')]
    cells = [
        named(case),
        dtype,
        said(measured.outputs.ours),
        said(measured.outputs.torch),
        f'{np.median(gradients):.2f}' if gradients else '',
        f'{ratios[worst]:.2f}, `{worst}`',
        'autocast' if measured.autocast else '',
    ]
    return f'| {" | ".join(cells)} |'


def main() -> None:
    """Measures all models and objectives, or those named, and writes `docs/sixteen_bits.md` if it was all of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('stems', nargs='*', help='such as cait; all if none is named')
    parser.add_argument('--draws', type=int, default=32, help='of inputs and cotangents')
    options = parser.parse_args()
    jax.config.update('jax_enable_x64', True)
    rows, bad = [], 0
    for case in (*first_cases(), *first_objective_cases()):
        if options.stems and case.stem not in options.stems:
            continue
        for dtype in DTYPES:
            try:
                measured = measure(case, dtype, draws=options.draws)
            except Unmeasured as error:
                print(error, flush=True)
                rows.append(f'| {named(case)} | {dtype} | | | | | PyTorch cannot run it |')
                continue
            rows.append(row(case, dtype, measured))
            print(rows[-1], flush=True)
            for name, ratio in measured.too_inexact.items():
                bad += 1
                print(f'    beyond {BOUND}: {name} {ratio:.2f}', flush=True)
    print(f'{bad} beyond {BOUND}')
    if not options.stems:
        page = HEADER.format(draws=options.draws, processor=f' on {processor()}' if processor() else '')
        (Path(__file__).parents[1] / 'docs' / 'sixteen_bits.md').write_text(page + '\n'.join(rows) + '\n')


def processor() -> str:
    """The name of the CPU, where Linux tells it."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return ''
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), '')


if __name__ == '__main__':
    main()
