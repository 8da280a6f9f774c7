from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks.attention_test import Attend, apply
from vit_flax.blocks.kernels import query_blocks


@pytest.fixture
def short_blocks(monkeypatch):
    """Everything is long, and of 7 keys two queries make a block."""
    monkeypatch.setattr(query_blocks, 'LONG', 1)
    monkeypatch.setattr(query_blocks, 'SCORES', 14)


def gradients_of(function, *inputs):
    return jax.value_and_grad(lambda *inputs: (function(*inputs) ** 2).sum(), range(len(inputs)))(*inputs)


@pytest.mark.parametrize('batch', [2, 0])
@pytest.mark.parametrize('own', [5, 1], ids=['for_each_query', 'for_all_queries'])
def test_blocks_of_queries_have_the_outputs_and_gradients_of_the_whole(short_blocks, monkeypatch, own, batch):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        shapes = (batch, 3, 5, 8), (batch, 3, 7, 8), (batch, 3, 7, 6), (3, own, 7)
        inputs = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
        mask = jax.random.bernoulli(jax.random.key(2), 0.6, (1, own, 7)).at[..., 0].set(True)

        def run():
            # JAX keeps what it has traced of a function
            def attend(q, k, v, bias):
                return apply(q, k, v, bias=bias, mask=mask)

            blocks = 'scan' in str(jax.make_jaxpr(attend)(*inputs))
            return blocks, gradients_of(attend, *inputs), jax.jvp(attend, inputs, inputs)

        blocks, *got = run()
        monkeypatch.setattr(query_blocks, 'LONG', np.inf)
        whole, *wanted = run()
    assert blocks and not whole
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), got, wanted)


def test_blocks_drop_weights_at_their_rate_each_in_its_own_way(short_blocks):
    q, k = jnp.zeros((2, 3, 6, 8)), jnp.zeros((2, 3, 7, 8))
    # the output is the map
    v = jnp.broadcast_to(jnp.eye(7), (2, 3, 7, 7))
    attend = Attend({'scale': 0.3, 'dropout': 0.4})
    maps = np.asarray(attend.apply({}, q, k, v, train=True, rngs={'dropout': jax.random.key(1)}))
    kept = maps > 0
    np.testing.assert_allclose(maps[kept], 1 / 7 / 0.6, rtol=1e-5)
    assert 0.5 < kept.mean() < 0.7
    # queries of the three blocks
    assert (kept[:, :, 0] != kept[:, :, 1]).any() and (kept[:, :, 1] != kept[:, :, 2]).any()


def temporaries(attend, *inputs):
    step = jax.jit(jax.grad(lambda *inputs: (attend(*inputs).astype(jnp.float32) ** 2).sum(), (0, 1, 2)))
    memory = step.lower(*inputs).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


def test_long_inputs_keep_no_map(monkeypatch):
    """The map of 4,096 tokens and 12 heads is 768 MiB in float32."""
    inputs = [jax.ShapeDtypeStruct((1, 12, 4096, 64), jnp.float32)] * 3
    assert temporaries(apply, *inputs) < 256 * 2**20
    monkeypatch.setattr(query_blocks, 'LONG', np.inf)
    assert temporaries(apply, *inputs) > 1024 * 2**20
