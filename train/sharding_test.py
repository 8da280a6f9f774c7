"""The same numbers on every mesh, everything where the rules say, and clear words when it does not fit."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parity_tests.bridge import example_inputs
from parity_tests.case import Case, first_cases, others_exhaustive
from train.config import Mesh, Optim
from train.data.augment import Augment
from train.data.stream import place, train_batches
from train.errors import UserError
from train.optim import paths
from train.recipes.digits import CONFIG
from train.setup import gathered_heads, set_up
from train.sharding import (
    abstract,
    evaluation_mesh,
    fallbacks,
    given_sharding,
    in_memory,
    make_mesh,
    onto_this_host,
    parameter_sharding,
)
from vit_flax import create_model
from vit_flax.blocks.backend import compiling_for

TINY = dataclasses.replace(
    CONFIG,
    steps=5,
    batch_size=16,
    optim=Optim(ema=0.9),
    model=dataclasses.replace(
        CONFIG.model,
        # 20 and 36 do not divide by 8
        args=dict(patch_size=4, dim=20, depth=2, heads=2, dim_head=12, mlp_dim=36, dropout=0.1),
    ),
)


def trained(mesh, devices=None, reduction='computation'):
    """Setup, final state and losses of a few steps."""
    config = dataclasses.replace(TINY, mesh=mesh, optim=Optim(ema=0.9, gradient_reduction=reduction))
    setup = set_up(config, devices)
    state, losses = setup.initial(), []
    records = config.data.records('train')
    for batch in train_batches(records, config.augment, seed=0, batch_size=16, steps=5, loader=config.loader):
        state, numbers = setup.train_step(state, place(batch, setup.mesh, 16))
        losses.append(float(numbers['loss']))
    return setup, state, losses


@pytest.fixture(scope='module')
def single():
    """The run on one device."""
    return trained(Mesh(), devices=jax.devices()[:1])


@pytest.mark.parametrize(
    'mesh, reduction',
    [
        (Mesh(), 'computation'),
        (Mesh(fsdp=8, fsdp_min_size=64), 'float32'),
        (Mesh(fsdp=2, tensor=2, seq=2, fsdp_min_size=64), 'computation'),
    ],
    ids=['data', 'fsdp', 'fsdp-tensor-seq'],
)
def test_every_mesh_trains_the_same(mesh, reduction, single):
    _, state, losses = trained(mesh, reduction=reduction)
    _, expected, expected_losses = single
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), state, expected)


def test_state_lies_where_the_rules_say():
    setup = set_up(dataclasses.replace(TINY, mesh=Mesh(data=1, fsdp=2, tensor=4, fsdp_min_size=200)))
    state = setup.initial()
    kernel = state.params['transformer']['block_0']['attention']['to_qkv']['kernel']
    assert kernel.sharding.spec == PartitionSpec('fsdp', 'tensor')
    assert kernel.addressable_shards[0].data.shape == (20 // 2, 72 // 4)
    moments = optax.tree.get(state.opt_state, 'mu')['transformer']['block_0']['attention']['to_qkv']['kernel']
    average = state.ema['transformer']['block_0']['attention']['to_qkv']['kernel']
    assert moments.sharding == average.sharding == kernel.sharding
    assert state.params['transformer']['norm']['scale'].sharding.is_fully_replicated
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert held < 0.3 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    'path, shape, spec',
    [
        ('transformer/block_3/attention/to_qkv/kernel', (64, 96), PartitionSpec('fsdp', 'tensor')),
        ('transformer/block/attention/to_qkv/kernel', (6, 64, 96), PartitionSpec(None, 'fsdp', 'tensor')),
        ('transformer/block_3/attention/to_out/kernel', (96, 64), PartitionSpec('tensor', 'fsdp')),
        ('transformer/block_3/feedforward/expand/bias', (96,), PartitionSpec('tensor')),
        ('mlp_head/kernel', (64, 96), PartitionSpec('fsdp', None)),
        ('mlp_head/kernel', (63, 96), PartitionSpec(None, 'fsdp')),
        ('mlp_head/kernel', (63, 97), PartitionSpec(None, None)),
        ('mlp_head/bias', (10,), PartitionSpec(None)),
    ],
)
def test_rules_then_size(path, shape, spec):
    mesh = make_mesh(Mesh(fsdp=2, tensor=2))
    assert parameter_sharding(path, shape, mesh, Mesh(fsdp_min_size=100)) == NamedSharding(mesh, spec)


def test_the_first_rule_counts_and_can_keep_a_parameter_whole():
    rules = (('.*/special/kernel', '- -'), *Mesh().rules, ('.*', 'seq *'))
    mesh, config = make_mesh(Mesh(fsdp=2, seq=2)), Mesh(rules=rules, fsdp_min_size=0)
    assert parameter_sharding('a/special/kernel', (64, 64), mesh, config).spec == PartitionSpec(None, None)
    assert parameter_sharding('a/other/kernel', (64, 64), mesh, config).spec == PartitionSpec('seq', 'fsdp')


def test_an_axis_of_size_1_keeps_nothing_from_fsdp():
    path, mesh = 'transformer/block/feedforward/expand/kernel', make_mesh(Mesh(fsdp=8))
    assert parameter_sharding(path, (2, 6, 64), mesh, Mesh(fsdp_min_size=0)).spec == PartitionSpec(None, None, 'fsdp')


@pytest.mark.parametrize(
    'mesh, shape, shard, words',
    [
        (Mesh(fsdp=8), (8, 12, 18), (8, 3, 9), 'divides no free axis: it splits axis 1 over 4 and axis 2 over 2'),
        (Mesh(fsdp=8), (8, 9, 12), (8, 9, 3), 'it splits axis 2 over 4, 2 copies of each part'),
        (Mesh(fsdp=8), (8, 9, 15), (8, 9, 15), 'it splits no axis'),
        (Mesh(fsdp=2, tensor=4), (8, 9, 18), (8, 9, 9), 'mesh.tensor=4 does not divide axis 2, which is left to'),
        (Mesh(fsdp=2, tensor=4), (8, 9, 12), (8, 9, 3), 'mesh.fsdp=2 divides no free axis: it splits no axis'),
    ],
)  # fmt: skip
def test_what_does_not_divide_falls_back_and_is_named(mesh, shape, shard, words):
    """Shapes of three axes, of which the first are layers, that stay together."""
    devices, config = make_mesh(mesh), dataclasses.replace(mesh, fsdp_min_size=0)
    path = 'transformer/block/feedforward/expand/kernel'
    sharding = parameter_sharding(path, shape, devices, config)
    assert sharding.shard_shape(shape) == shard
    tree = {'transformer': {'block': {'feedforward': {'expand': {'kernel': jax.ShapeDtypeStruct(shape, np.float32)}}}}}
    (line,) = fallbacks(tree, devices, config)
    assert line.startswith(f'{path} {"x".join(map(str, shape))}: ') and words in line


@pytest.mark.parametrize(
    'mesh, words',
    [
        (Mesh(tensor=3), ['mesh.tensor=3', '8 devices']),
        (Mesh(data=2, fsdp=2), ['mesh.data=2', 'mesh.fsdp=2', 'mesh.data=4 would fit']),
        (Mesh(data=1, tensor=2, fsdp=1, seq=4, rules=(('.*/to_qkv/kernel', 'rows *'),)), ["'rows'", 'tensor, seq']),
        (Mesh(tensor=2, rules=(('.*/bias', 'tensor * *'),)), ['names 3 axes', 'bias']),
        (Mesh(rules=(('(', '*'),)), ["'('", 'not a regular expression']),
    ],
    ids=['devices', 'product', 'axis', 'rank', 'pattern'],
)
def test_a_mesh_that_does_not_fit_is_one_clear_error(mesh, words):
    with pytest.raises(UserError) as error:
        set_up(dataclasses.replace(TINY, mesh=mesh))
    for word in words:
        assert word in str(error.value)


def test_heads_that_cannot_be_split_are_named():
    found = set_up(dataclasses.replace(TINY, mesh=Mesh(tensor=4))).fallbacks
    assert found == ['attention of 2 heads: mesh.tensor=4 does not divide them: gathered in every layer']
    # of stages, under names of their own
    args = {f's{i}_{key}': value for i in (1, 2, 3) for key, value in dict(emb_dim=8, heads=i, depth=1).items()}
    model = create_model('cvt', num_classes=3, channels=1, **args)
    (line,) = gathered_heads(model, make_mesh(Mesh(tensor=4)), (16, 16, 1))
    assert line == 'attention of 1 and 2 and 3 heads: mesh.tensor=4 does not divide them: gathered in every layer'
    assert not set_up(dataclasses.replace(TINY, mesh=Mesh(tensor=2))).fallbacks


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(UserError, match=r'batch_size=12 does not divide over mesh.data=8 x mesh.fsdp=1.*multiple of 8'):
        set_up(dataclasses.replace(TINY, batch_size=12))
    with pytest.raises(UserError, match=r'mesh.seq=8 does not divide the 20 rows'):
        set_up(dataclasses.replace(TINY, augment=Augment(image_size=20), mesh=Mesh(seq=8)))


@pytest.mark.parametrize('case', others_exhaustive(first_cases()), ids=lambda case: case.stem)
def test_the_rules_reach_the_matrices_of_every_model(case: Case):
    """Products that `tensor` splits hold a share of every model, even of tiny ones that are mostly stem and head."""
    model = case.flax_model()
    params = jax.eval_shape(model.init, jax.random.key(0), *example_inputs(case))['params']
    sizes = {path: leaf.size for path, leaf in zip(paths(params), jax.tree.leaves(params), strict=True)}
    split = [size for path, size in sizes.items() if any(re.fullmatch(rule, path) for rule, _ in Mesh().rules)]
    assert sum(split) >= 0.05 * sum(sizes.values())


def test_programs_are_for_the_devices_of_the_mesh():
    """Whatever platform would be traced for without it."""
    setup = set_up(TINY)
    records = TINY.data.records('train')
    (batch,) = train_batches(records, TINY.augment, seed=0, batch_size=16, steps=1, loader=TINY.loader)
    batch = abstract(place({**batch, 'weight': np.ones(16, np.float32)}, setup.mesh, 16))
    network = {'params': setup.state.params}, jax.ShapeDtypeStruct((1, 16, 16, 1), np.float32)

    def programs():
        steps = setup.train_step, setup.eval_step, setup.features
        made: list[Any] = [(setup.initial, ()), *((step, (setup.state, batch)) for step in steps)]
        return [str(function.trace(*args).jaxpr) for function, args in [*made, (jax.jit(setup.model.apply), network)]]

    *here, network_here = programs()
    with compiling_for('tpu'):
        *there, network_there = programs()
    assert here == there and network_here != network_there


def test_a_given_teacher_is_sharded_by_the_paths_of_its_parameters():
    config = Mesh(fsdp=2, tensor=2, fsdp_min_size=1)
    teacher = {'params': {'attention': {'to_qkv': {'kernel': jax.ShapeDtypeStruct((8, 16), np.float32)}}}}
    found = given_sharding(teacher, make_mesh(config), config)['params']['attention']['to_qkv']['kernel']
    assert found.spec == PartitionSpec('fsdp', 'tensor')


@pytest.mark.parametrize(
    'trained_on, shape',
    [
        (Mesh(), (8, 1, 1, 1)),
        (Mesh(data=2, fsdp=4), (2, 4, 1, 1)),
        (Mesh(data=16, fsdp=2, tensor=2), (2, 2, 2, 1)),
        (Mesh(fsdp=256), (1, 8, 1, 1)),
        (Mesh(tensor=3), (1, 8, 1, 1)),
    ],
)
def test_what_was_split_in_training_is_split_over_the_devices_that_are_here(trained_on, shape):
    mesh, config = evaluation_mesh(trained_on)
    assert mesh.devices.shape == shape and make_mesh(config).devices.shape == shape


def test_arrays_are_gathered_in_pieces(monkeypatch):
    monkeypatch.setattr('train.sharding.PIECE', 100)
    mesh = make_mesh(Mesh(fsdp=8))
    specs = [('fsdp', None), (None, 'fsdp'), ()]
    values = [np.arange(16 * 24, dtype=np.float32).reshape(16, 24), np.arange(80).reshape(5, 16), np.float32(3)]
    arrays = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(*s))) for x, s in zip(values, specs, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, in_memory(arrays, mesh), values)
    assert onto_this_host(arrays, mesh, Mesh(fsdp=8)) is arrays


@pytest.mark.parametrize('reduction', ['float32', 'bfloat16'])
def test_gradients_of_matrices_are_summed_in_the_dtype_asked_for(reduction):
    """Whatever the dtype of the network's computation is."""
    others: dict[Any, Any] = {'float32': 'bfloat16', 'bfloat16': 'float32'}
    other = others[reduction]
    model = dataclasses.replace(TINY.model, dtype=other)
    optim = dataclasses.replace(TINY.optim, gradient_reduction=reduction)

    def products(config):
        """Dtypes of the gradients of the kernel of `expand`, 20x36, in the traced step."""
        setup = set_up(config)
        rows = {
            'image': jax.ShapeDtypeStruct((16, 16, 16, 1), np.uint8),
            'label': jax.ShapeDtypeStruct((16,), np.int32),
        }
        text = str(setup.train_step.trace(setup.state, rows).jaxpr)
        return set(re.findall(r':(\w+)\[(?:20,1,36|36,1,20|36,20|20,36)\] = dot_general', text))

    short = {'float32': 'f32', 'bfloat16': 'bf16'}
    assert products(dataclasses.replace(TINY, model=model)) == {short[other]}
    assert products(dataclasses.replace(TINY, model=model, optim=optim)) == {short[reduction]}
