"""What 16-bit floats must not spoil: each case was wrong once."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_flax.blocks.attention import attend
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import HeadRMSNorm, RMSNorm, unit_length
from vit_flax.blocks.precision import add, einsum_float32, repeat, take_rows
from vit_flax.blocks.torch_like import BatchNorm, LayerNorm, gelu, hard_swish, silu
from vit_flax.objectives.projection import scaled
from vit_flax.objectives.teacher import ema_update

NARROW = (jnp.bfloat16, jnp.float16)


def double(x) -> np.ndarray:
    return np.asarray(x, np.float64)


def distance(got, want) -> float:
    got, want = double(got), double(want)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


class Attention(Module):
    @nn.compact
    def __call__(self, q, k, v):
        return attend(self, q, k, v, scale=q.shape[-1] ** -0.5)


def attention(*arrays) -> Any:
    return Attention().apply({}, *arrays)


def eps(dtype) -> float:
    return float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize('dtype', NARROW)
@pytest.mark.parametrize('common', [0, 5])
def test_gradients_of_attention_whose_values_have_a_common_part(dtype, common):
    draw = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draw.normal(size=(1, 2, 97, 16)) + offset, dtype) for offset in (0, 1, common))
    seed = jnp.asarray(draw.normal(size=(1, 2, 97, 16)), dtype)

    def gradients(*arrays):
        out, pull_back = jax.vjp(attention, *arrays)
        return pull_back(seed.astype(out.dtype))

    want = gradients(*(x.astype(jnp.float32) for x in (q, k, v)))
    bound = 8 * eps(dtype)
    assert [distance(*pair) < bound for pair in zip(gradients(q, k, v), want, strict=True)] == [True] * 3


@pytest.mark.parametrize('dtype', NARROW)
def test_weights_of_large_scores(dtype):
    """A score of 18 rounded to bfloat16 is off by 0.06; in float16 the largest of these are infinite."""
    draw = np.random.default_rng(1)
    q, k, v = (jnp.asarray(factor * draw.normal(size=(1, 1, 33, 16)), dtype) for factor in (4, 4, 1))
    got = attention(q, k, v)
    assert distance(got, attention(*(x.astype(jnp.float32) for x in (q, k, v)))) < 2 * eps(dtype)
    assert jnp.isfinite(attention(100 * q, 100 * k, v)).all()


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('dtype', NARROW)
def test_batch_norm_of_channels_with_large_means(dtype, train):
    draw = np.random.default_rng(2)
    x = jnp.asarray(draw.normal(size=(64, 5, 8)) + 30 * np.linspace(0.8, 1.2, 8), dtype)
    wide = np.asarray(x, np.float64)
    mean, var = wide.mean((0, 1)), wide.var((0, 1))
    norm = BatchNorm(dtype=dtype)
    variables = norm.init(jax.random.key(0), x)
    variables['batch_stats'] |= {'mean': jnp.asarray(mean, jnp.float32), 'var': jnp.asarray(var, jnp.float32)}
    y, _ = norm.apply(variables, x, train=train, mutable=['batch_stats'])
    want = (wide - mean) / np.sqrt(var + 1e-5)
    assert np.abs(np.asarray(y, np.float64) - want).mean((0, 1)).max() < eps(dtype)
    assert np.abs((np.asarray(y, np.float64) - want).mean((0, 1))).max() < eps(dtype) / 4


@pytest.mark.parametrize('dtype', NARROW)
def test_layer_norm_gradient_orthogonal_to_the_input(dtype):
    """Its two halves, which mostly cancel, must be rounded together."""
    draw = np.random.default_rng(3)
    x = jnp.asarray(20 + draw.normal(size=(16, 64)), dtype)
    seed = jnp.asarray(draw.normal(size=x.shape) + np.asarray(x, np.float64), dtype)
    norm = LayerNorm(use_bias=False, use_scale=False)

    def gradient(x):
        return jax.vjp(lambda x: norm.apply({}, x), x)[1](seed.astype(x.dtype))[0]

    assert distance(gradient(x), gradient(x.astype(jnp.float32))) < eps(dtype)


@pytest.mark.parametrize('dtype', NARROW)
@pytest.mark.parametrize('value', [0, 1e-7, 1e-3, 40, 6e4])
def test_lengths_of_small_and_large_vectors(dtype, value):
    def normed(norm, x):
        return norm.init_with_output(jax.random.key(0), x)[0] / 8

    x = jnp.full((2, 3, 4, 64), value, dtype)
    for norm in (unit_length, partial(scaled, axis=-1), partial(normed, RMSNorm()), partial(normed, HeadRMSNorm())):
        mean, slope = jax.value_and_grad(lambda x, norm=norm: norm(x).astype(jnp.float32).mean())(x)
        assert jnp.isfinite(mean) and not jnp.isnan(slope).any()
        if float(x[0, 0, 0, 0]) > 1e-5:  # what is shorter, some of them leave short
            np.testing.assert_allclose(mean, 1 / 8, rtol=2 * eps(dtype))


EXACT: dict[Any, Any] = {
    gelu: partial(jax.nn.gelu, approximate=False),
    silu: jax.nn.silu,
    hard_swish: jax.nn.hard_swish,
}


@pytest.mark.parametrize('dtype', NARROW)
def test_activations_far_from_zero(dtype):
    x = jnp.asarray(np.linspace(-5, 5, 401), dtype)
    wide = x.astype(jnp.float32)
    for function, exact in EXACT.items():
        np.testing.assert_allclose(double(function(x)), double(exact(wide)), rtol=2 * eps(dtype), atol=1e-6)
        got, want = (double(jax.vmap(jax.grad(f))(z)) for f, z in ((function, x), (exact, wide)))
        smooth = np.abs(np.abs(double(x)) - 3) > 1e-6 if function is hard_swish else slice(None)
        np.testing.assert_allclose(got[smooth], want[smooth], rtol=2 * eps(dtype), atol=1e-5)


@pytest.mark.parametrize('dtype', NARROW)
def test_gelu_has_as_many_digits_far_below_zero(dtype):
    x = jnp.asarray(np.linspace(-8, -3, 101), dtype)
    want = double(jax.nn.gelu(x.astype(jnp.float32), approximate=False))
    normal = np.abs(want) > float(jnp.finfo(dtype).smallest_normal)
    np.testing.assert_allclose(double(gelu(x))[normal], want[normal], rtol=eps(dtype))


def test_sums_of_many_elements():
    """In bfloat16 a sum of ones stays where adding one changes nothing."""
    many, one = jnp.ones((50, 300, 4), jnp.bfloat16), jnp.ones(4, jnp.bfloat16)
    index = np.zeros(15_000, int)
    for function, seed in (
        (lambda bias: add(many, bias), many),
        (lambda token: repeat(token, 'd -> b n d', b=50, n=300), many),
        (lambda row: take_rows(row[None], index), many.reshape(-1, 4)),
    ):
        (total,) = jax.vjp(function, one)[1](seed)
        np.testing.assert_allclose(double(total), 15_000, rtol=0.004)


def test_products_keep_narrow_factors():
    x = jnp.ones((2, 3), jnp.bfloat16)
    out, pull_back = jax.vjp(lambda x: einsum_float32('b c, d c -> b d', x, x), x)
    assert out.dtype == jnp.float32 and pull_back(out)[0].dtype == jnp.bfloat16
    traced = str(jax.make_jaxpr(jax.grad(lambda x: einsum_float32('b c, d c -> b d', x, x).sum()))(x))
    assert 'f32[2,3] = dot_general' not in traced


@pytest.mark.parametrize('dtype', NARROW)
def test_a_slow_teacher_moves(dtype):
    teacher = {'kernel': jnp.zeros(3, dtype) + 1}
    for _ in range(500):
        teacher = ema_update(teacher, {'kernel': jnp.zeros(3, dtype)}, 0.996)
    np.testing.assert_allclose(teacher['kernel'], 0.996**500, rtol=1e-4)
    assert ema_update({'a': jnp.float32(0.1)}, {'a': jnp.float32(0.1)}, 0.996)['a'] == jnp.float32(0.1)
