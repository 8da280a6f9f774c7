"""Every objective: three steps equal to torch, the reference equal to upstream, the encoder whole when it comes out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

import vit_flax
from parity_tests.bridge import example_inputs, randomise, relative_error, rng_of
from parity_tests.case import Refused, build_flax
from parity_tests.objective_case import (
    ObjectiveCase,
    all_objective_cases,
    check,
    loss_and_rest,
    make_objective_pair,
    measure,
    prepared_upstream,
    train_torch,
)
from parity_tests.test_weights import assert_same
from parity_tests.upstream import upstream_module
from vit_flax.blocks import attention, torch_like
from vit_flax.objectives import mae
from vit_flax.objectives.encoder import encoder_variables


def test_three_steps_equal_to_torch(objective_case: ObjectiveCase):
    """Loss, gradients, state and parameters, with an optimizer; and the exact number of parameters."""
    check(objective_case)


def test_witness_equals_upstream(objective_case: ObjectiveCase):
    case, module = objective_case, upstream_module(objective_case.stem)
    witness = case.torch_model().double()
    randomise(witness, rng_of(case, 'weights'))
    witness.train(case.train)
    trained = make_objective_pair(case).trained()
    if case.upstream_fails:
        with pytest.raises(case.upstream_fails):
            train_torch(prepared_upstream(case, witness, mend=False), case, trained, module)
        if not case.upstream_mend:
            return
    upstream = prepared_upstream(case, witness)
    report = measure(case, train_torch(witness, case, trained), train_torch(upstream, case, trained, module))
    problems = [f'{name}: {error:.1e}' for name, error in report.in_order.items() if error > case.upstream_tolerance]
    assert not problems, f'{case.id} differs from upstream, first in {problems[0]}'


def test_compiled_equals_eager_and_bfloat16_is_finite(representative_objective: ObjectiveCase):
    case = representative_objective.at(0)
    pair = make_objective_pair(case)

    def run(model, variables, inputs):
        _, (outputs, state) = loss_and_rest(model, variables, inputs, case, case.call)
        return outputs, state

    def gradients(model, variables, inputs):
        others = {name: tree for name, tree in variables.items() if name != 'params'}
        return jax.grad(lambda params: run(model, {'params': params, **others}, inputs)[0][0])(variables['params'])

    eager = run(pair.flax, pair.variables, pair.inputs)
    compiled = jax.jit(run, static_argnums=0)(pair.flax, pair.variables, pair.inputs)
    for mine, theirs in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        assert relative_error(mine, theirs) <= 1e-9

    low = case.flax_model(dtype=jnp.bfloat16)
    single = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        (pair.variables, [jnp.asarray(array) for array in pair.inputs]),
    )
    (loss, *_), state = jax.jit(run, static_argnums=0)(low, *single)
    slopes = jax.jit(gradients, static_argnums=0)(low, *single)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, slopes, state)))
    assert abs(float(loss) - float(eager[0][0])) <= 0.2 * abs(float(eager[0][0]))


def test_sharded_equals_one_device(representative_objective: ObjectiveCase):
    """Batch over two devices, every parameter and state that can be quartered over four others, along explicit axes."""
    case = representative_objective.at(0)
    pair = make_objective_pair(case)
    mesh = jax.make_mesh((2, 4), ('data', 'fsdp'))

    def place(leaf):
        axis = next((axis for axis, size in enumerate(leaf.shape) if size % 4 == 0), None)
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, 'fsdp')
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    @jax.jit
    def step(variables, inputs):
        state = {name: tree for name, tree in variables.items() if name != 'params'}

        def loss(params):
            return loss_and_rest(pair.flax, {'params': params, **state}, inputs, case, case.call)

        (_, (outputs, state)), slopes = jax.value_and_grad(loss, has_aux=True)(variables['params'])
        return outputs, slopes, state

    def over_batch(array, spec):
        views = spec.layout.split().index('b')
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*[None] * views, 'data')))

    spread = [over_batch(array, spec) for array, spec in zip(pair.inputs, case.inputs, strict=True)]
    variables, want = jax.tree.map(place, pair.variables), step(pair.variables, pair.inputs)
    with jax.set_mesh(mesh):
        got = step(variables, spread)
    for name, tree in got[2].items():
        for new, old in zip(jax.tree.leaves(tree), jax.tree.leaves(variables[name]), strict=True):
            assert new.sharding.is_equivalent_to(old.sharding, new.ndim)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(want[1]))
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert relative_error(mine, theirs, floor=1e-4 * largest) <= 1e-9


def test_encoder_comes_out_whole(encoder_case: ObjectiveCase):
    """What it was trained to inside of the objective runs in the bare encoder, which torch's twin takes."""
    pair = make_objective_pair(encoder_case)
    encoder = build_flax(encoder_case.encoder_argument())
    variables = encoder_variables(pair.variables)
    example = encoder.example_input()
    wanted = jax.eval_shape(encoder.init, jax.random.key(0), example)
    assert jax.tree.structure(variables) == jax.tree.structure(wanted)
    images = np.random.default_rng(0).normal(size=(2, *example.shape[1:]))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(encoder.apply)(variables, images)))
    state_dict = vit_flax.to_torch(encoder, variables, source='vit_pytorch')
    again = vit_flax.from_torch(encoder, state_dict, source='vit_pytorch')
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_weights_go_to_torch_and_back(objective_case: ObjectiveCase):
    """Bit for bit; and names are the checkpoint format: none that Flax made up, such as Dense_0."""
    case = objective_case.at(0)
    reference, model = case.torch_model(), case.flax_model()
    randomise(reference, rng_of(case, 'weights'))
    call, shapes = {**case.call, **case.options}, example_inputs(case)
    variables = vit_flax.from_torch(model, reference.state_dict(), *shapes, source='vit_pytorch', **call)
    assert_same(vit_flax.to_torch(model, variables, *shapes, source='vit_pytorch', **call), reference.state_dict())
    for path in flatten_dict(variables):
        for part in path[1:]:
            assert part == part.lower(), f'{"/".join(path)}: {part!r} is an automatic name'


def test_mistakes_of_the_caller(refused_objective: Refused):
    shapes = [jax.ShapeDtypeStruct(spec.shape, jnp.float32) for spec in refused_objective.inputs]

    def init(*inputs):
        return refused_objective.flax_model().init(jax.random.key(0), *inputs, **refused_objective.call)

    with pytest.raises(ValueError, match=refused_objective.says):
        jax.eval_shape(init, *shapes)


def complaint(name: str) -> str:
    with pytest.raises(AssertionError) as caught:
        check(next(case for case in all_objective_cases() if case.id == name))
    return str(caught.value)


def test_the_harness_names_what_differs_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, 'LayerNorm', partial(torch_like.LayerNorm, epsilon=1e-6))
    said = complaint('mae-simple_vit')
    assert 'first in\n  step 1: output 0: ' in said
    assert 'first module that differs: encoder/transformer/block_0/attention/norm (' in said


def test_the_harness_sees_a_wrong_target(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mae, 'to_float32', lambda x: 1.001 * x)
    said = complaint('mae-vit_mean_equal_widths')
    assert 'between its submodules' in said and 'and so does everything up to to_pixels' in said
