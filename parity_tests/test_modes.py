"""What holds in every way a model can be run: eager, mapped, sharded, scanned, in other dtypes.

Each is compared with the one run of the PyTorch reference. What the compiler and JAX's transformations guarantee, once
the parts of a model allow it, is shown with one model for each kind of part; `--all` shows it with all."""

import dataclasses
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

import vit_flax
from parity_tests.bridge import Pair, apply_flax, example_inputs, relative_error, run_flax, to_run, vjp_flax
from parity_tests.case import Case
from parity_tests.compare import measure
from parity_tests.specimen import specimen


@pytest.fixture
def pair(first_case: Case) -> Pair:
    return specimen(first_case).pair


def cast(tree, dtype):
    # by numpy: JAX would compile a program for each shape
    arrays = jax.tree.map(np.asarray, tree)
    arrays = jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, arrays)
    return jax.device_put(arrays)


def rates(model: nn.Module) -> list[str]:
    """The arguments that are rates of dropout, of whatever kind."""
    fields = [field.name for field in dataclasses.fields(model) if re.search(r'dropout|depth_rate', field.name)]
    return [name for name in fields if isinstance(getattr(model, name), float)]


def with_rates(model: nn.Module, rate: float) -> nn.Module:
    """The model with all of them at one value."""
    return model.clone(**dict.fromkeys(rates(model), rate))


def program(model: nn.Module, pair: Pair, **call: Any) -> tuple[str, list[Any]]:
    """What is traced, as text, and the constants in it."""
    traced = jax.make_jaxpr(partial(outputs, model, **pair.case.options, **call))(pair.variables, pair.inputs)
    # functions are printed with their place in memory
    return re.sub(r'0x[0-9a-f]+', '', str(traced)), traced.consts


def outputs(model, variables, inputs, **call):
    return jax.tree.leaves(model.apply(variables, *inputs, **call))


def assert_close(got, want, tolerance):
    for mine, theirs in zip(got, want, strict=True):
        assert mine.shape == theirs.shape
        assert relative_error(mine, theirs) <= tolerance


def in_float32(pair: Pair) -> tuple[dict, list[jax.Array]]:
    return cast(pair.variables, jnp.float32), cast([*pair.inputs], jnp.float32)


def test_mapped_in_float32_and_bfloat16(representative_case: Case):
    """Each sample on a device of its own."""
    pair, want = specimen(representative_case).pair, specimen(representative_case).in_torch.outputs
    variables, inputs = in_float32(pair)

    def both(variables, inputs):
        models = pair.flax, pair.flax.clone(dtype=jnp.bfloat16)
        return [outputs(model, variables, inputs, **pair.case.options) for model in models]

    one_each = [array[:, None] for array in inputs]
    exact, low = jax.pmap(both, in_axes=(None, 0), devices=jax.devices()[:2])(variables, one_each)
    assert all(array.dtype == jnp.float32 for array in exact)
    assert all(array.dtype == jnp.bfloat16 for array in low)
    for mapped, tolerance in ((exact, 1e-5), (low, 0.1)):
        # a loss over the batch is another one for each sample
        samples = [(mine[:, 0], theirs) for mine, theirs in zip(mapped, want, strict=True) if theirs.ndim]
        assert samples
        assert_close(*zip(*samples, strict=True), tolerance)


def test_evaluation_is_the_same_program_whatever_the_rates_of_dropping(representative_case: Case):
    """It needs no rng, and gives the same twice."""
    pair = specimen(representative_case).pair
    (quiet, constants), (noisy, others) = program(pair.flax, pair), program(with_rates(pair.flax, 0.5), pair)
    assert noisy == quiet
    jax.tree.map(np.testing.assert_array_equal, others, constants)


def test_every_rate_of_dropping_acts_in_training(pair: Pair):
    """Each at a value that nothing else has: it stands in the program, or changes its shapes.

    All but those that their model's documentation says are without effect.
    """
    said = type(pair.flax).__doc__ or ''
    names = [name for name in rates(pair.flax) if f'{name}: without effect' not in said]
    if not names:
        pytest.skip('it drops nothing')
    values = {name: (21 + 2 * index) / 64 for index, name in enumerate(names)}
    keys = {name: jax.random.key(0) for name in ('dropout', 'drop_path', 'tokens', 'mask')}
    training = dict(train=True, rngs=keys, mutable=['batch_stats'])
    text, _ = program(pair.flax.clone(**values), pair, **training)
    for name, value in values.items():
        if f'{value}' not in text and f'{1 - value}' not in text:
            without, _ = program(pair.flax.clone(**{**values, name: 0.0}), pair, **training)
            assert text != without, name


def test_eager_equals_torch(representative_case: Case):
    pair = specimen(representative_case).pair
    variables, inputs = in_float32(pair)
    assert_close(
        outputs(pair.flax, variables, inputs, **representative_case.options),
        specimen(representative_case).in_torch.outputs,
        1e-5,
    )


def test_sharded_equals_torch(representative_case: Case):
    """Batch over two devices, every parameter that can be halved over two, and JAX's own kind of axes: explicit."""
    pair = specimen(representative_case).pair
    mesh = jax.make_mesh((2, 2), ('data', 'fsdp'), devices=jax.devices()[:4])

    def place(leaf):
        axis = next((axis for axis, size in enumerate(leaf.shape) if size % 2 == 0), None)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, 'fsdp')
        return jax.device_put(np.asarray(leaf), NamedSharding(mesh, spec))

    variables = jax.tree.map(place, pair.variables)
    spread = [jax.device_put(array, NamedSharding(mesh, PartitionSpec('data'))) for array in pair.inputs]
    with jax.set_mesh(mesh):
        got = vjp_flax(pair, variables, spread)
    outputs, grads, input_grads, _ = got
    assert all(leaf.sharding.spec[0] == 'data' for leaf in outputs if leaf.ndim)
    for new, old in zip(
        jax.tree.leaves((grads, input_grads)), jax.tree.leaves((variables['params'], spread)), strict=True
    ):
        assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    report = measure(representative_case, to_run(pair, got), specimen(representative_case).wanted(pair))
    assert report.worst <= representative_case.tolerance


def of_any_batch(pair: Pair, batch: Any) -> tuple[Any, list[jax.ShapeDtypeStruct]]:
    """The outputs as a function of parameters and inputs, and inputs of a batch."""
    case = pair.case
    if case.listed is not None or case.call:
        pytest.skip('its inputs are packed, or come with arrays for their own batch')

    def outputs(params, *inputs):
        return jax.tree.leaves(pair.flax.apply({**pair.variables, 'params': params}, *inputs, **case.options))

    layouts = [zip(spec.shape, spec.layout.split(), strict=True) for spec in case.inputs]
    shapes = [[batch if axis == 'b' else size for size, axis in layout] for layout in layouts]
    return outputs, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def test_a_batch_may_be_a_symbol(representative_case: Case):
    pair = specimen(representative_case).pair
    (symbol,) = export.symbolic_shape('b')
    outputs, inputs = of_any_batch(pair, symbol)
    assert jax.eval_shape(outputs, pair.variables['params'], *inputs)[0].shape[0] == symbol


def test_a_batch_may_be_empty(representative_case: Case):
    """It has an empty result and gradients; shapes alone, which is where it goes wrong."""
    pair = specimen(representative_case).pair
    outputs, inputs = of_any_batch(pair, 0)
    params = pair.variables['params']
    total = jax.grad(lambda params, *inputs: sum(leaf.sum() for leaf in outputs(params, *inputs)))
    sizes = jax.eval_shape(total, params, *inputs)
    assert jax.tree.map(jnp.shape, sizes) == jax.tree.map(jnp.shape, params)


def test_scanned_equals_torch(scannable_representative: Case):
    """Outputs, and the statistics of a training step if the model has any."""
    case = scannable_representative
    one = specimen(case)
    loop, scanned, want = one.pair, one.scanned, one.wanted(one.scanned)
    both_ways(loop.flax, loop.variables, scanned.variables, example_inputs(case))
    result, new = jax.jit(partial(apply_flax, scanned))(scanned.variables, scanned.inputs, dict(case.call))
    assert_close(jax.tree.leaves(result), want.outputs, case.tolerance)
    state = flatten_dict(new, sep='/') if case.train else {}
    assert state.keys() == want.state.keys()
    for name, value in want.state.items():
        assert relative_error(state[name], value) <= case.tolerance, name


def test_gradients_of_a_scanned_rematerialised_trunk_equal_torch(scannable_representative: Case):
    one = specimen(scannable_representative)
    report = measure(scannable_representative, run_flax(one.scanned), one.wanted(one.scanned))
    assert report.worst <= scannable_representative.tolerance


def test_what_can_be_scanned_can_be_rematerialised(first_case: Case):
    model = first_case.flax_model()
    assert model.takes('scan') == model.takes('remat')


def both_ways(model, unrolled, stacked, shapes) -> None:
    """One layout of the variables from the other, bit for bit; those of the wrong one are refused."""
    jax.tree.map(np.testing.assert_array_equal, vit_flax.stack_layers(model, unrolled, *shapes), stacked)
    jax.tree.map(np.testing.assert_array_equal, vit_flax.unstack_layers(model, stacked, *shapes), unrolled)


def test_submodules_have_names(pair: Pair):
    """Names are the checkpoint format: none that Flax made up, such as Dense_0."""
    for path in flatten_dict(pair.variables):
        for part in path[1:]:
            assert part == part.lower(), f'{"/".join(path)}: {part!r} is an automatic name'
