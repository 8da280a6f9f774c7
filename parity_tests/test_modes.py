"""What holds for every model in every way it can be run: compiled, eager, mapped, sharded, scanned, in other dtypes."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

import vit_flax
from parity_tests.bridge import Pair, example_inputs, make_pair, relative_error
from parity_tests.case import Case


@pytest.fixture(scope='module')
def pair(first_case: Case) -> Pair:
    with jax.enable_x64(True):
        return make_pair(first_case)


def cast(tree, dtype):
    # by numpy: JAX would compile a program for each shape
    arrays = jax.tree.map(np.asarray, tree)
    arrays = jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, arrays)
    return jax.device_put(arrays)


def with_rates(model: nn.Module, rate: float) -> nn.Module:
    """The model with all its rates of dropout, of whatever kind, at one value."""
    fields = [field.name for field in dataclasses.fields(model) if re.search(r'dropout|depth_rate', field.name)]
    return model.clone(**{name: rate for name in fields if isinstance(getattr(model, name), float)})


def outputs(model, variables, inputs, **call):
    return jax.tree.leaves(model.apply(variables, *inputs, **call))


def assert_close(got, want, tolerance):
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape
        assert relative_error(mine, theirs) <= tolerance


def test_compiled_eager_mapped_in_float32_and_bfloat16(pair: Pair):
    """Also: evaluation needs no rng and repeats itself, whatever the rates of dropping are."""
    call = {**pair.case.call, **pair.case.options}
    result = pair.torch.eval()(*pair.torch_inputs(), **pair.case.torch_call())
    want = [tensor.detach().numpy() for tensor in jax.tree.leaves(result)]
    variables, inputs = cast(pair.variables, jnp.float32), cast([*pair.inputs], jnp.float32)

    @jax.jit
    def run(variables, inputs):
        variants = pair.flax, with_rates(pair.flax, 0.5), pair.flax.clone(dtype=jnp.bfloat16)
        return [outputs(model, variables, inputs, **call) for model in variants]

    compiled, noisy, low = run(variables, inputs)
    assert all(array.dtype == jnp.float32 for array in compiled)
    assert_close(compiled, want, 1e-5)
    assert_close(noisy, compiled, 0.0)
    assert all(array.dtype == jnp.bfloat16 for array in low)
    assert_close(low, want, 0.1)

    assert_close(outputs(pair.flax, variables, inputs, **call), compiled, 1e-5)

    one_each = [array[:, None] for array in inputs]
    mapped = jax.pmap(lambda inputs: outputs(pair.flax, variables, inputs, **call), devices=jax.devices()[:2])
    # a loss over the batch is another number for each sample
    samples = [(mine[:, 0], theirs) for mine, theirs in zip(mapped(one_each), compiled, strict=True) if theirs.ndim]
    assert_close(*zip(*samples, strict=True), 1e-5)


def training_step(model, variables, inputs, call):
    """Outputs, gradients of a loss and new statistics, in training mode."""
    others = {name: tree for name, tree in variables.items() if name != 'params'}

    @jax.jit
    def run(params, inputs):
        def loss(params):
            output, state = with_rates(model, 0.0).apply(
                {'params': params, **others}, *inputs, train=True, mutable=['batch_stats'], **call
            )
            return sum((leaf**2).mean() for leaf in jax.tree.leaves(output)), (output, state)

        (_, (output, state)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.leaves(output), grads, state

    return run(variables['params'], inputs)


def batch_of_four(pair: Pair) -> list[jax.Array]:
    return [jnp.asarray(np.concatenate([array, array[::-1] * 0.5])) for array in map(np.asarray, pair.inputs)]


@pytest.fixture(scope='module')
def plain_step(pair: Pair):
    """One device, unrolled: what the sharded and the scanned step must give too."""
    with jax.enable_x64(True):
        return training_step(pair.flax, pair.variables, batch_of_four(pair), {**pair.case.call, **pair.case.options})


def test_sharded_equals_one_device(pair: Pair, plain_step):
    """Batch over four devices, every parameter that can be halved over two, and JAX's own kind of axes: explicit."""
    mesh = jax.make_mesh((4, 2), ('data', 'fsdp'))

    def place(leaf):
        axis = next((axis for axis, size in enumerate(leaf.shape) if size % 2 == 0), None)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, 'fsdp')
        return jax.device_put(np.asarray(leaf), NamedSharding(mesh, spec))

    variables = jax.tree.map(place, pair.variables)
    spread = [jax.device_put(array, NamedSharding(mesh, PartitionSpec('data'))) for array in batch_of_four(pair)]
    with jax.set_mesh(mesh):
        got = training_step(pair.flax, variables, spread, {**pair.case.call, **pair.case.options})
    outputs, grads, _ = got
    assert all(leaf.sharding.spec[0] == 'data' for leaf in outputs if leaf.ndim and len(leaf) == len(spread[0]))
    for grad, parameter in zip(jax.tree.leaves(grads), jax.tree.leaves(variables['params']), strict=True):
        assert grad.sharding.is_equivalent_to(parameter.sharding, grad.ndim)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain_step))
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(plain_step), strict=True):
        assert relative_error(mine, theirs, floor=1e-4 * largest) <= 1e-9


def test_a_batch_may_be_empty_or_a_symbol(pair: Pair):
    """An empty one has an empty result and gradients; shapes alone, which is where it goes wrong."""
    case = pair.case
    if case.listed is not None or case.call:
        pytest.skip('its inputs are packed, or come with arrays for their own batch')

    def outputs(params, *inputs):
        return jax.tree.leaves(pair.flax.apply({**pair.variables, 'params': params}, *inputs, **case.options))

    def total(params, *inputs):
        return sum(leaf.sum() for leaf in outputs(params, *inputs))

    def batches(batch):
        layouts = [zip(spec.shape, spec.layout.split(), strict=True) for spec in case.inputs]
        shapes = [[batch if axis == 'b' else size for size, axis in layout] for layout in layouts]
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    (symbol,) = export.symbolic_shape('b')
    params = pair.variables['params']
    assert jax.eval_shape(outputs, params, *batches(symbol))[0].shape[0] == symbol
    sizes = jax.eval_shape(jax.grad(total), params, *batches(0))
    assert jax.tree.map(jnp.shape, sizes) == jax.tree.map(jnp.shape, params)


def test_scan_and_remat_equal_the_loop(pair: Pair, plain_step):
    """Compared in torch's names: both layouts have those."""
    if not hasattr(pair.flax, 'scan'):
        assert not hasattr(pair.flax, 'remat')
        return
    shapes = example_inputs(pair.case)
    scanned = pair.flax.clone(scan=True, remat=True)
    variables = vit_flax.from_torch(scanned, pair.torch.state_dict(), *shapes, source='vit_pytorch')
    both_ways(pair.flax, pair.variables, variables, shapes)
    outputs, *got = training_step(scanned, variables, batch_of_four(pair), {**pair.case.call, **pair.case.options})
    assert_close(outputs, plain_step[0], 1e-11)
    in_torch_names = [
        vit_flax.to_torch(model, {**others, 'params': grads, **state}, *shapes, source='vit_pytorch')
        for model, others, (grads, state) in (
            (scanned, variables, got),
            (pair.flax, pair.variables, plain_step[1:]),
        )
    ]
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain_step[1]))
    for name, theirs in in_torch_names[1].items():
        assert relative_error(in_torch_names[0][name], theirs, floor=1e-4 * largest) <= 1e-9, name


def both_ways(model, unrolled, stacked, shapes) -> None:
    """One layout of the variables from the other, bit for bit; those of the wrong one are refused."""
    jax.tree.map(np.testing.assert_array_equal, vit_flax.stack_layers(model, unrolled, *shapes), stacked)
    jax.tree.map(np.testing.assert_array_equal, vit_flax.unstack_layers(model, stacked, *shapes), unrolled)


def test_submodules_have_names(pair: Pair):
    """Names are the checkpoint format: none that Flax made up, such as Dense_0."""
    for path in flatten_dict(pair.variables):
        for part in path[1:]:
            assert part == part.lower(), f'{"/".join(path)}: {part!r} is an automatic name'
