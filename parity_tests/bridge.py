"""Between the frameworks: the only place that knows both layouts of an array.

Everything random comes from numpy with a seed made of the case's name, and goes to both sides.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax.traverse_util import flatten_dict

import vit_flax
from parity_tests.case import Case
from vit_flax.packing import from_slots
from vit_flax.weights.table import Table, build_table


def rng_of(case: Case, purpose: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f'{case.id}/{purpose}'.encode()))


def channel_axis(layout: str) -> int:
    """Where torch has the channels: behind the batch and the views, if there are any."""
    axes = layout.split()
    return axes.count('b') + axes.count('v')


def channels_second(array: np.ndarray, layout: str) -> np.ndarray:
    """`[b *space c]` to `[b c *space]`, views `[b v *space c]` to `[b v c *space]`; layouts without c stay."""
    axes = layout.split()
    return np.ascontiguousarray(np.moveaxis(array, axes.index('c'), channel_axis(layout))) if 'c' in axes else array


def channels_last(array: np.ndarray, feature_map: bool) -> np.ndarray:
    """An output of torch in Flax's layout; only feature maps, of four axes and more, have channels to move."""
    return np.moveaxis(array, 1, -1) if feature_map and array.ndim >= 4 else array


def channels_back(array: np.ndarray, feature_map: bool) -> np.ndarray:
    """The inverse of `channels_last`."""
    return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if feature_map and array.ndim >= 4 else array


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Weights that hide nothing: no zeros, no ones, statistics of a network in use."""
    # what stands in the place of a bias that is none
    zeros = {name for name, _ in model.named_buffers() if name.endswith('beta')}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            shape = tuple(value.shape)
            if name in zeros:
                continue
            if not value.is_floating_point():
                if name.endswith('num_batches_tracked'):
                    value.fill_(int(rng.integers(3, 9)))
                continue
            if name.endswith('running_var'):
                new = rng.uniform(0.5, 2.0, shape)
            elif value.ndim >= 2 and name.endswith('weight'):
                new = rng.normal(size=shape) / np.sqrt(max(1, value[0].numel()))
            else:
                # of a single element the sign may be drawn, and differ in another model of the same case
                flat = value.flatten()
                constant = len(flat) > 1 and bool((flat == flat[0]).all() and flat[0] > 0)
                around_one = constant or bool(len(flat) == 1 and flat[0] == 1)
                new = float(around_one) + 0.4 * rng.normal(size=shape)
            value.copy_(torch.from_numpy(np.asarray(new)))


@dataclass
class Run:
    """What one side computed, in Flax's names and layout."""

    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    unused: tuple[str, ...] = ()
    negligible: tuple[str, ...] = ()


@dataclass
class Pair:
    """The two models of a case with the same weights, inputs and cotangents."""

    case: Case
    flax: nn.Module
    torch: torch.nn.Module
    variables: dict[str, Any]
    table: Table
    inputs: list[np.ndarray]

    @property
    def call(self) -> dict[str, Any]:
        return {'train': self.case.train, **self.case.call, **self.case.options}

    def torch_inputs(self, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
        layouts = (spec.layout for spec in self.case.inputs)
        arrays = (channels_second(array, layout) for array, layout in zip(self.inputs, layouts, strict=True))
        return [torch.from_numpy(array).to(dtype) for array in arrays]

    def cotangents(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        rng = rng_of(self.case, 'cotangents')
        return [rng.normal(size=output.shape) for output in outputs]


def example_inputs(case: Case) -> list[jax.ShapeDtypeStruct]:
    if case.listed is not None:
        return [case.flax_model().example_input()]
    return [jax.ShapeDtypeStruct(spec.shape, np.float32) for spec in case.inputs]


def draw_inputs(case: Case) -> list[np.ndarray]:
    rng = rng_of(case, 'inputs')
    return [rng.normal(size=spec.shape) for spec in case.inputs]


def make_pair(case: Case, **flax_extra: Any) -> Pair:
    """Builds both models in float64 and loads the reference's random weights into Flax."""
    reference = case.torch_model().double()
    randomise(reference, rng_of(case, 'weights'))
    reference.train(case.train)
    model = case.flax_model(**flax_extra)
    variables = vit_flax.from_torch(model, reference.state_dict(), *example_inputs(case), source=model.torch_source)
    table = build_table(model, *example_inputs(case))
    return Pair(case, model, reference, variables, table, draw_inputs(case))


@dataclass
class TorchRun:
    """What the reference computed, in its own names; of inputs and outputs in Flax's layout.

    Attributes:
      outputs: all arrays of the result.
      gradients: of every parameter, zero where none reaches it.
      input_gradients: in the order of the inputs.
      buffers: after the call.
      unused: parameters without a gradient.
      negligible: parameters with a gradient of rounding errors alone.
    """

    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray]
    input_gradients: list[np.ndarray]
    buffers: dict[str, np.ndarray]
    unused: set[str]
    negligible: set[str]


def call_torch(pair: Pair) -> TorchRun:
    """Outputs, gradients and new statistics of the reference."""
    inputs = [tensor.requires_grad_() for tensor in pair.torch_inputs()]
    result = pair.torch(*pair.case.arguments(inputs), **pair.case.torch_call())
    tensors = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, torch.Tensor)]
    parameters = {name: p for name, p in pair.torch.named_parameters() if p.requires_grad}
    maps = pair.case.feature_maps
    outputs = [channels_last(tensor.detach().numpy(), maps) for tensor in tensors]
    cotangents = pair.cotangents(outputs)
    grads = torch.autograd.grad(
        tensors,
        [*parameters.values(), *inputs],
        [torch.from_numpy(channels_back(array, maps)) for array in cotangents],
        allow_unused=True,
    )
    by_name = dict(zip(parameters, grads, strict=False))
    # a frozen parameter has no gradient either
    everything = {name: by_name.get(name) for name, _ in pair.torch.named_parameters()}
    present = {name: grad for name, grad in everything.items() if grad is None or grad.numel() > 0}
    largest = {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in present.items()}
    # what a softmax does not see, such as one bias for all keys, has a gradient of rounding errors alone
    rounding = 1e-13 * max(largest.values(), default=0.0)
    input_gradients = []
    for tensor, spec, grad in zip(inputs, pair.case.inputs, grads[len(parameters) :], strict=True):
        array = np.zeros(tensor.shape) if grad is None else grad.numpy()
        axis = channel_axis(spec.layout)
        input_gradients.append(np.moveaxis(array, axis, -1) if 'c' in spec.layout.split() else array)
    return TorchRun(
        outputs=outputs,
        gradients={
            name: np.zeros(tuple(parameter.shape)) if everything[name] is None else everything[name].numpy()
            for name, parameter in pair.torch.named_parameters()
        },
        input_gradients=input_gradients,
        buffers={name: buffer.numpy().copy() for name, buffer in pair.torch.named_buffers()},
        unused={name for name, size in largest.items() if size == 0},
        negligible={name for name, size in largest.items() if size <= rounding},
    )


def in_flax_names(pair: Pair, run: TorchRun) -> Run:
    """The PyTorch reference's results as the Flax model of a pair has them, whose layers may be scanned."""
    entries = [entry for entry in pair.table.entries if entry.path[0] == 'params']
    gradients = {'/'.join(entry.path[1:]): entry.to_flax(run.gradients) for entry in entries}
    gradients |= {f'input {index}': grad for index, grad in enumerate(run.input_gradients)}
    state = {
        '/'.join(entry.path): entry.to_flax(run.buffers)
        for entry in pair.table.entries
        if entry.path[0] == 'batch_stats' and pair.case.train
    }
    return Run(
        outputs=run.outputs,
        gradients=gradients,
        state=state,
        unused=tuple('/'.join(entry.path[1:]) for entry in entries if set(entry.names) <= run.unused),
        negligible=tuple('/'.join(entry.path[1:]) for entry in entries if set(entry.names) <= run.negligible),
    )


def run_torch(pair: Pair) -> Run:
    """Outputs, gradients and new statistics of the reference, in Flax's names."""
    return in_flax_names(pair, call_torch(pair))


def run_flax(pair: Pair) -> Run:
    """The same of the Flax model, compiled."""
    return to_run(pair, vjp_flax(pair, pair.variables, pair.inputs))


def to_run(pair: Pair, results: tuple[Any, Any, Any, Any]) -> Run:
    """What `vjp_flax` computed, by name."""
    outputs, grads, input_grads, state = jax.device_get(results)
    gradients = flatten_dict(grads, sep='/')
    gradients |= {f'input {index}': grad for index, grad in enumerate(input_grads)}
    return Run(list(outputs), gradients, flatten_dict(state, sep='/') if pair.case.train else {})


def vjp_flax(pair: Pair, variables: Mapping[str, Any], inputs: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
    """Outputs, gradients of parameters and of inputs, and new statistics, all where the mesh has put them."""
    params = {'params': variables.get('params', {})}
    others = {name: value for name, value in variables.items() if name != 'params'}

    @jax.jit
    def run(params, others, inputs, draws):
        def forward(params, *inputs):
            return _leaves_and_state(pair, {**params, **others}, inputs, draws)

        outputs, pull_back, state = jax.vjp(forward, params, *inputs, has_aux=True)
        grads, *input_grads = pull_back(
            [_like(seed, x) for seed, x in zip(pair.cotangents(outputs), outputs, strict=True)]
        )
        return outputs, grads['params'], input_grads, state

    return run(params, others, inputs, dict(pair.case.call))


def _like(cotangent: np.ndarray, output: jax.Array) -> jax.Array:
    """A cotangent with the dtype of its output, and along the axes of the mesh that has that."""
    array = jnp.asarray(cotangent, output.dtype)
    sharding = jax.typeof(output).sharding
    return array if sharding.mesh.empty else jax.reshard(array, sharding)


def _leaves_and_state(pair, variables, inputs, draws):
    output, state = apply_flax(pair, variables, inputs, draws)
    return jax.tree.leaves(output), state


def apply_flax(
    pair: Pair, variables: Any, inputs: Sequence[Any], draws: Mapping[str, Any], state: Sequence[str] = ('batch_stats',)
) -> tuple[Any, Any]:
    """Output of the Flax model and the new values of some collections."""
    mutable = [*state]
    if pair.case.listed is None:
        return pair.flax.apply(variables, *inputs, mutable=mutable, **{**pair.call, **draws})
    # Packing is done by numpy and moves numbers only: it is done on the places of all numbers, 0 being padding.
    sizes = [spec.shape for spec in pair.case.inputs]
    ends = np.cumsum([np.prod(size) for size in sizes])
    places = [np.arange(end - np.prod(size), end).reshape(size) + 1 for size, end in zip(sizes, ends, strict=True)]
    packed = pair.flax.pack(*pair.case.arguments(places), **pair.call)
    values = jnp.concatenate([jnp.zeros(1), *(jnp.ravel(array) for array in inputs)])
    patches = values[packed['patches']]
    packed |= {'patches': patches}
    output, new = pair.flax.apply(variables, **packed, train=pair.case.train, mutable=mutable)
    return from_slots(output, packed['slots']), new


def relative_error(got: np.ndarray, want: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference over the largest magnitude; NaN counts as infinite."""
    if want.size == 0:
        return 0.0
    difference = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)).max()
    scale = max(np.abs(np.asarray(want, np.float64)).max(), floor, np.finfo(np.float64).tiny)
    return float(difference / scale) if np.isfinite(difference) else float('inf')
