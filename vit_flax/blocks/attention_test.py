import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_flax.blocks import attention
from vit_flax.blocks.backend import compiling_for, without_cudnn
from vit_flax.blocks.module import Module


class Attend(Module):
    options: dict

    @nn.compact
    def __call__(self, q, k, v, train=False):
        return attention.attend(self, q, k, v, train=train, **self.options)


def qkv(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, 3, n, 8), dtype) for key, n in zip(keys, (5, 7, 7), strict=True)]


def apply(*inputs, **options):
    return Attend({'scale': 0.3, **options}).apply({}, *inputs)


def test_is_softmax_attention():
    q, k, v = qkv()
    bias = jax.random.normal(jax.random.key(1), (3, 5, 7))
    mask = jax.random.bernoulli(jax.random.key(2), 0.6, (2, 1, 5, 7)).at[..., 0].set(True)
    scores = 0.3 * np.einsum('benk,bemk->benm', q, k) + np.asarray(bias)
    weights = np.exp(scores) * np.asarray(mask)
    want = np.einsum('benm,bemk->benk', weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(apply(q, k, v, bias=bias, mask=mask), want, rtol=1e-4, atol=1e-5)


def test_row_without_allowed_key_is_finite_with_finite_gradients():
    q, k, v = qkv()
    mask = jnp.ones((5, 7), bool).at[2].set(False)
    np.testing.assert_allclose(apply(q, k, v, mask=mask)[:, :, 2], v.mean(2), rtol=1e-5, atol=1e-5)
    gradients = jax.grad(lambda q: (apply(q, k, v, mask=mask) ** 2).sum())(q)
    assert np.isfinite(gradients).all()


def test_dropout_only_in_training():
    module = Attend({'scale': 0.3, 'dropout': 0.5})
    q, k, v = qkv()
    rngs = {'dropout': jax.random.key(1)}
    np.testing.assert_array_equal(module.apply({}, q, k, v), apply(q, k, v))
    assert np.abs(module.apply({}, q, k, v, train=True, rngs=rngs) - apply(q, k, v)).max() > 0.1


@pytest.fixture
def pretend_gpu(monkeypatch):
    """A machine whose fused kernel is XLA's own, and counts its calls."""
    calls = []
    real = jax.nn.dot_product_attention

    def fused(*args, implementation, **kwargs):
        calls.append(implementation)
        return real(*args, **kwargs)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', fused)
    with compiling_for('gpu'):
        yield calls


@pytest.mark.parametrize('mask', [None, np.arange(6)[None, None, None] < 4], ids=['bias', 'key_mask'])
def test_fused_kernel_gives_the_same(pretend_gpu, mask):
    """Of a bias it gets the dtype of the queries, of a mask of keys one for each query."""
    q, k, v = (x[:, :, :length] for x, length in zip(qkv(jnp.bfloat16), (4, 6, 6), strict=True))
    bias = jax.random.normal(jax.random.key(1), (1, 3, 4, 6))
    got = apply(q, k, v, bias=bias, mask=mask)
    assert pretend_gpu == ['cudnn'] and got.dtype == jnp.bfloat16
    want = apply(*(x.astype(jnp.float32) for x in (q, k, v)), bias=bias, mask=mask)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.03)


def test_odd_lengths_with_a_bias_are_not_tried(pretend_gpu):
    apply(*qkv(jnp.bfloat16), bias=jnp.zeros((1, 3, 5, 7)))
    apply(*qkv(jnp.bfloat16), mask=jnp.ones((1, 1, 1, 7), bool))
    assert not pretend_gpu
    apply(*qkv(jnp.bfloat16))
    assert pretend_gpu == ['cudnn']


def test_reading_the_map_switches_the_fused_kernel_off(pretend_gpu):
    _, taps = Attend({'scale': 0.3}).apply({}, *qkv(jnp.bfloat16), mutable=['intermediates'])
    assert taps['intermediates']['attention'][0].shape == (2, 3, 5, 7)
    assert not pretend_gpu


@pytest.mark.parametrize('dtype, width', [(jnp.float32, 8), (jnp.bfloat16, 12), (jnp.bfloat16, 256)])
def test_what_does_not_fit_is_not_tried(pretend_gpu, dtype, width):
    x = jnp.ones((1, 1, 3, width), dtype)
    apply(x, x, x)
    assert not pretend_gpu


def test_falls_back_with_one_warning(monkeypatch, pretend_gpu):
    def refuse(*args, **kwargs):
        raise RuntimeError('cuDNN is not detected.')

    monkeypatch.setattr(jax.nn, 'dot_product_attention', refuse)
    attention._warn_once.cache_clear()
    inputs = qkv(jnp.bfloat16)
    with pytest.warns(UserWarning, match='cuDNN is not detected') as caught:
        first, second = apply(*inputs), apply(*inputs)
    assert len(caught) == 1
    np.testing.assert_array_equal(first, second)


def test_forward_mode_without_the_fused_kernel(pretend_gpu):
    inputs = qkv(jnp.bfloat16)
    with without_cudnn():
        _, tangents = jax.eval_shape(lambda *inputs: jax.jvp(apply, inputs, inputs), *inputs)
    assert not pretend_gpu and tangents.shape == (2, 3, 5, 8)


def test_in_16_bits_no_map_is_kept_for_the_gradient():
    inputs = [jnp.zeros((2, 3, 16, 8), jnp.bfloat16)] * 3
    kept = jax.tree.leaves(jax.eval_shape(lambda *inputs: jax.vjp(apply, *inputs)[1], *inputs))
    assert kept and all(leaf.shape[-1] == 8 for leaf in kept)
