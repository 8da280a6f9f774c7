"""Which parameters decay, the learning rate over time, and the running average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.config import Optim
from train.errors import UserError
from train.optim import average, decays, optimizer, paths, schedule
from vit_flax.models.vit import ViT


@pytest.mark.parametrize('scan', [False, True])
def test_decay_goes_by_name(scan):
    model = ViT(image_size=8, patch_size=4, num_classes=3, dim=8, depth=2, heads=2, mlp_dim=8, scan=scan)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
    chosen = dict(zip(paths(params), jax.tree.leaves(decays(('.*/kernel',), params)), strict=True))
    assert chosen['mlp_head/kernel'] and not chosen['pos_embedding'] and not chosen['mlp_head/bias']
    block = 'block' if scan else 'block_1'
    assert chosen[f'transformer/{block}/attention/to_qkv/kernel']
    assert not chosen[f'transformer/{block}/feedforward/expand/bias']
    assert not chosen[f'transformer/{block}/attention/norm/scale']


def test_patterns_match_whole_paths_and_must_match_something():
    params = {'head': {'kernel': 0, 'kernel_norm': 0}, 'kernel': 0}
    assert decays(('.*/kernel',), params) == {'head': {'kernel': True, 'kernel_norm': False}, 'kernel': False}
    assert decays(('kernel', 'head/.*'), params) == {'head': {'kernel': True, 'kernel_norm': True}, 'kernel': True}
    with pytest.raises(UserError, match='matches no parameter'):
        decays(('kernel', 'heat/.*'), params)


def test_learning_rate_rises_then_falls_to_zero():
    rate = schedule(Optim(learning_rate=2.0, warmup=0.25), 40)
    np.testing.assert_allclose([rate(i) for i in (0, 5, 10, 25, 40)], [0, 1, 2, 1, 0], atol=1e-6)


def test_one_step_is_adamw_after_clipping():
    config = Optim(learning_rate=0.1, warmup=0.0, weight_decay=0.5, clip=1.0)
    params = {'a': {'kernel': jnp.array([3.0, 4.0]), 'bias': jnp.array([1.0])}}
    grads = {'a': {'kernel': jnp.array([30.0, 40.0]), 'bias': jnp.array([0.0])}}
    tx = optimizer(config, 10, params)
    updates, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates['a']['kernel'], -0.1 * (1 + 0.5 * np.array([3, 4])), rtol=1e-5)
    np.testing.assert_allclose(updates['a']['bias'], 0, atol=1e-8)
    mu = optax.tree.get(state, 'mu')['a']['kernel']
    np.testing.assert_allclose(mu, 0.1 * np.array([0.6, 0.8]), rtol=1e-6)


def test_average_starts_young():
    params, ema = jnp.array(1.0), jnp.array(0.0)
    np.testing.assert_allclose(average(ema, params, 1, 0.999), 1 - 2 / 11, rtol=1e-6)
    np.testing.assert_allclose(average(ema, params, 10**6, 0.999), 0.001, rtol=1e-3)
