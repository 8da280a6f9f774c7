"""Each rule against its formula, groups by name, the learning rate over time and depth, and the running average."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.config import Optim
from train.errors import UserError
from train.layers import depths
from train.optim import assign, average, optimizer, paths, schedule
from vit_flax.models.vit import ViT

CONSTANT: dict[str, Any] = dict(schedule='constant', warmup=0.0, learning_rate=0.1, clip=0.0)


def vit(**changes):
    return ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=3, heads=2, mlp_dim=12, **changes)


IMAGES = np.zeros((1, 8, 8, 3), np.float32)


def initial(model):
    return model.init(jax.random.key(0), IMAGES)['params']


def stack(params):
    """The parameters of a loop as those of a scan."""
    blocks = [params['transformer'][f'block_{i}'] for i in range(3)]
    rest = {name: value for name, value in params['transformer'].items() if not name.startswith('block')}
    return {**params, 'transformer': {**rest, 'block': jax.tree.map(lambda *layers: jnp.stack(layers), *blocks)}}


def random_like(params):
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves])


def stepped(config, params, grads, depths=None, steps=2):
    """The parameters after some steps with the same gradient."""
    tx = optimizer(config, 10, params, depths)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


# ---------------------------------------------------------------------- groups


@pytest.mark.parametrize('scan', [False, True])
def test_decay_goes_by_name(scan):
    params = jax.eval_shape(vit(scan=scan).init, jax.random.key(0), IMAGES)['params']
    group = assign(Optim().groups, params)
    assert set(group) == set(paths(params))
    assert group['mlp_head/kernel'] == 'decay' and group['pos_embedding'] == group['mlp_head/bias'] == 'plain'
    block = 'block' if scan else 'block_1'
    assert group[f'transformer/{block}/attention/to_qkv/kernel'] == 'decay'
    assert group[f'transformer/{block}/feedforward/expand/bias'] == 'plain'
    assert group[f'transformer/{block}/attention/norm/scale'] == 'plain'


def test_the_first_pattern_counts_and_all_parameters_need_one():
    params = {'head': {'kernel': 0, 'kernel_norm': 0}, 'kernel': 0}
    rules = (('head/.*', 'frozen'), ('.*kernel', 'decay'))
    assert assign(rules, params) == {'head/kernel': 'frozen', 'head/kernel_norm': 'frozen', 'kernel': 'decay'}
    with pytest.raises(UserError, match=r"'heat/\.\*' matches no parameter; paths are like 'kernel'"):
        assign((('heat/.*', 'plain'), ('.*', 'plain')), params)
    with pytest.raises(UserError, match=r'covers all parameters but head/kernel_norm: end it with \.\* plain'):
        assign((('.*kernel', 'decay'),), params)
    with pytest.raises(UserError, match='not a regular expression'):
        assign((('(', 'plain'),), params)


@pytest.mark.parametrize('name', ['adamw', 'lamb', 'lion', 'sgd', 'adafactor', 'muon'])
def test_frozen_parameters_keep_their_bits_and_have_no_moments(name):
    model = vit()
    params = initial(model)
    groups: Any = (('transformer/.*', 'frozen'), ('.*/kernel', 'decay'), ('.*', 'plain'))
    config = Optim(name=name, groups=groups, layer_decay=0.9)
    grads = random_like(params)
    known = depths(model, IMAGES)
    new = stepped(config, params, grads, known)
    jax.tree.map(np.testing.assert_array_equal, new['transformer'], params['transformer'])
    assert not np.array_equal(new['mlp_head']['kernel'], params['mlp_head']['kernel'])
    state = optimizer(config, 10, params, known).init(params)
    assert not any('block_0' in path for path in paths(state))


# ---------------------------------------------------------------------- the learning rate over time


@pytest.mark.parametrize(
    'changes, expected',
    [
        (dict(), [0, 1, 2, 1, 0]),
        (dict(schedule='cosine', floor=0.25), [0, 1, 2, 1.25, 0.5]),
        (dict(schedule='linear', floor=0.5), [0, 1, 2, 1.5, 1]),
        (dict(schedule='constant'), [0, 1, 2, 2, 2]),
        (dict(schedule='constant', cooldown=0.75), [0, 1, 2, 1, 0]),
        (dict(schedule='rsqrt'), [0, 1, 2, 2 * (10 / 25) ** 0.5, 1]),
        (dict(schedule='rsqrt', cooldown=0.5), [0, 1, 2, 2 * (10 / 25) ** 0.5 * 15 / 20, 0]),
    ],
    ids=str,
)
def test_learning_rate_over_time(changes, expected):
    rate = schedule(Optim(learning_rate=2.0, warmup=0.25, **changes), 40)
    np.testing.assert_allclose([rate(i) for i in (0, 5, 10, 25, 40)], expected, atol=1e-6)


def test_without_warm_up_it_starts_at_the_top():
    for name in ('cosine', 'linear', 'rsqrt', 'constant'):
        assert schedule(Optim(learning_rate=2.0, warmup=0.0, schedule=name), 40)(0) == 2


# ---------------------------------------------------------------------- one parameter against the formulas


KERNEL, GRAD = np.array([[3.0, -4.0], [1.0, 2.0]]), np.array([[0.3, 0.4], [-0.1, 0.2]])


def first_update(config):
    params, grads = ({'a': {'kernel': jnp.asarray(x)}} for x in (KERNEL, GRAD))
    new = stepped(config, params, grads, {'a/kernel': np.array(0)}, steps=1)
    return (np.asarray(new['a']['kernel']) - KERNEL) / -0.1


def test_adamw():
    update = first_update(Optim(weight_decay=0.5, **CONSTANT))
    np.testing.assert_allclose(update, np.sign(GRAD) + 0.5 * KERNEL, rtol=1e-4)


def test_decay_grows_along_half_a_cosine():
    """Without a gradient, decay is all there is: in 10 steps from 0.1 to 0.5."""
    params = {'a': {'kernel': jnp.ones((1, 1))}}
    tx = optimizer(Optim(weight_decay=0.1, weight_decay_end=0.5, **CONSTANT), 10, params)
    state, decays = tx.init(params), []
    for _ in range(11):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        decays.append(updates['a']['kernel'].item() / -0.1)
    np.testing.assert_allclose(decays, 0.3 - 0.2 * np.cos(np.pi * np.arange(11) / 10), rtol=1e-5)


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    params = {'a': {'kernel': jnp.array([3.0, 4.0]), 'bias': jnp.array([1.0])}}
    grads = {'a': {'kernel': jnp.array([30.0, 40.0]), 'bias': jnp.array([0.0])}}
    tx = optimizer(Optim(clip=1.0), 10, params)
    _, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(optax.tree.get(state, 'mu')['a']['kernel'], 0.1 * np.array([0.6, 0.8]), rtol=1e-6)


def test_lamb_is_adam_with_decay_scaled_to_the_size_of_the_parameter():
    update = first_update(Optim(name='lamb', weight_decay=0.5, **CONSTANT))
    adam = np.sign(GRAD) + 0.5 * KERNEL
    np.testing.assert_allclose(update, adam * np.linalg.norm(KERNEL) / np.linalg.norm(adam), rtol=1e-4)


def test_lion_takes_signs():
    update = first_update(Optim(name='lion', weight_decay=0.5, **CONSTANT))
    np.testing.assert_allclose(update, np.sign(GRAD) + 0.5 * KERNEL, rtol=1e-5)


def test_sgd_has_nesterovs_momentum():
    update = first_update(Optim(name='sgd', weight_decay=0.5, beta1=0.8, **CONSTANT))
    np.testing.assert_allclose(update, 1.8 * GRAD + 0.5 * KERNEL, rtol=1e-5)


def test_adafactor_is_capped_and_has_momentum():
    update = first_update(Optim(name='adafactor', weight_decay=0.5, **CONSTANT))
    # The first step divides by the gradient's own size, and momentum lets a tenth through.
    np.testing.assert_allclose(update, 0.1 * np.sign(GRAD) + 0.5 * KERNEL, rtol=1e-4)


def test_adafactor_stores_rows_and_columns_of_a_matrix():
    params = {'kernel': jnp.ones((256, 128))}
    state = optimizer(Optim(name='adafactor', groups=(('.*', 'decay'),)), 10, params).init(params)
    second = [leaf.size for path, leaf in zip(paths(state), jax.tree.leaves(state), strict=True) if '/v' in path]
    assert max(second) == 256


def muon_params(inside):
    return {'embed': {'kernel': inside}, 'block_0': {'to_out': {'kernel': inside}}, 'head': {'kernel': inside}}


def test_muon_makes_matrices_of_blocks_orthogonal_and_leaves_the_ends_to_adam():
    grad = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)))
    params, grads = muon_params(jnp.zeros((6, 4))), muon_params(grad)
    known = {'embed/kernel': np.array(0), 'block_0/to_out/kernel': np.array(1), 'head/kernel': np.array(2)}
    config = Optim(name='muon', weight_decay=0.0, **CONSTANT)
    new = stepped(config, params, grads, known, steps=1)
    for name in ('embed', 'head'):
        np.testing.assert_allclose(new[name]['kernel'], -0.1 * np.sign(grad), rtol=1e-4)
    u, _, v = np.linalg.svd(grad, full_matrices=False)
    update = new['block_0']['to_out']['kernel'] / (-0.1 * 0.2 * np.sqrt(6))
    # Newton and Schulz come near to 1 only.
    np.testing.assert_allclose(np.diag(u.T @ update @ v.T), 1, atol=0.35)
    np.testing.assert_allclose(u.T @ update @ v.T - np.diag(np.diag(u.T @ update @ v.T)), 0, atol=1e-3)


@pytest.mark.parametrize('name', ['adamw', 'lamb', 'lion', 'sgd', 'adafactor', 'muon'])
def test_the_first_moment_is_kept_in_bfloat16_where_asked(name):
    """One array of each parameter, no other statistic; the parameters hardly differ."""
    model = vit()
    params = random_like(initial(model))
    grads, deep = jax.tree.map(lambda x: jnp.cos(7 * x), params), depths(model, IMAGES)
    wide = Optim(name=name, warmup=0.0, learning_rate=0.01)
    narrow = dataclasses.replace(wide, moment_dtype='bfloat16')
    state = jax.eval_shape(optimizer(narrow, 10, params, deep).init, params)
    in_16_bits = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
    assert sorted(in_16_bits) == sorted(leaf.shape for leaf in jax.tree.leaves(params))
    found, expected = (stepped(config, params, grads, deep) for config in (narrow, wide))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), found, expected)


# ---------------------------------------------------------------------- scanned layers, and depth


@pytest.mark.parametrize('name', ['adamw', 'lamb', 'lion', 'sgd', 'adafactor', 'muon'])
def test_scanned_layers_are_trained_like_layers_in_a_loop(name):
    loop, scan = vit(), vit(scan=True)
    params = random_like(initial(loop))
    grads = jax.tree.map(lambda x: jnp.cos(7 * x), params)
    config = Optim(name=name, layer_decay=0.7, warmup=0.0)
    unrolled = stepped(config, params, grads, depths(loop, IMAGES))
    stacked = stepped(config, stack(params), stack(grads), depths(scan, IMAGES))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), stacked, stack(unrolled))


def test_every_block_learns_slower_than_the_one_above():
    model = vit()
    params = initial(model)
    plain, layered = (
        stepped(Optim(name='sgd', layer_decay=decay, weight_decay=0.0, **CONSTANT), params, random_like(params),
                depths(model, IMAGES), steps=1)
        for decay in (1.0, 0.5)
    )  # fmt: skip
    change = jax.tree.map(lambda new, old, one: (new - old).ravel()[0] / (one - old).ravel()[0], layered, params, plain)
    assert np.isclose(change['mlp_head']['kernel'], 1)
    blocks = [change['transformer'][f'block_{i}']['feedforward']['expand']['kernel'] for i in range(3)]
    np.testing.assert_allclose(blocks, [1 / 8, 1 / 4, 1 / 2], rtol=1e-3)
    np.testing.assert_allclose([change['pos_embedding'], change['cls_token']], 1 / 16, rtol=1e-3)


def test_depth_is_asked_for_where_it_is_needed():
    params = {'kernel': jnp.ones((2, 2))}
    for changes in (dict(name='muon'), dict(layer_decay=0.5)):
        with pytest.raises(TypeError, match='how deep'):
            optimizer(dataclasses.replace(Optim(groups=(('.*', 'plain'),)), **changes), 10, params)


def test_average_starts_young():
    params, ema = jnp.array(1.0), jnp.array(0.0)
    np.testing.assert_allclose(average(ema, params, 1, 0.999), 1 - 2 / 11, rtol=1e-6)
    np.testing.assert_allclose(average(ema, params, 10**6, 0.999), 0.001, rtol=1e-3)


def test_the_average_of_what_does_not_move_is_itself():
    params = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    ema = params
    for step in range(5):
        ema = average(ema, params, step, 0.997)
    np.testing.assert_array_equal(ema, params)
