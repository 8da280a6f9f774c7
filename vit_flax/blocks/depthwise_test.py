import jax
import numpy as np
import pytest

from vit_flax.blocks.depthwise import _native, _shifted, depthwise_conv


@pytest.mark.parametrize(
    'size, kernel, stride, padding',
    [
        ((9, 7), (3, 3), 1, 1),
        ((9, 7), (3, 3), 2, 1),
        ((10, 8), (5, 3), 3, 2),
        ((8, 8), (1, 1), 2, 0),
        ((6, 9), (3, 2), 1, 0),
    ],
)
def test_shifted_sums_equal_the_native_operation(size, kernel, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, *size, 5))
    weights = jax.random.normal(jax.random.key(1), (*kernel, 1, 5))
    got, pull_back = jax.vjp(lambda x, w: depthwise_conv(x, w, stride, padding), x, weights)
    want, want_pull_back = jax.vjp(lambda x, w: _native(x, w, stride, padding), x, weights)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(_shifted(x, weights, stride, padding), want, atol=1e-5)
    for mine, theirs in zip(pull_back(got), want_pull_back(got), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-3)


def test_other_platforms_get_the_native_operation():
    x, weights = np.ones((1, 8, 8, 4), np.float32), np.ones((3, 3, 1, 4), np.float32)
    run = jax.jit(lambda x, w: depthwise_conv(x, w, 1, 1))
    for platform, native in (('cpu', False), ('tpu', True), ('cuda', True)):
        text = run.trace(x, weights).lower(lowering_platforms=(platform,)).as_text()
        assert ('stablehlo.convolution' in text) == native


def test_second_derivatives_and_per_example_gradients():
    x = jax.random.normal(jax.random.key(0), (3, 6, 5, 2))
    weights = jax.random.normal(jax.random.key(1), (3, 3, 1, 2))

    def loss(conv):
        return lambda w, x: (conv(x, w, 1, 1) ** 3).sum()

    def penalty(conv):
        return lambda w: (jax.grad(loss(conv))(w, x) ** 2).sum()

    np.testing.assert_allclose(jax.grad(penalty(_shifted))(weights), jax.grad(penalty(_native))(weights), rtol=1e-3)
    ours, native = (
        jax.vmap(jax.grad(lambda w, image, conv=conv: loss(conv)(w, image[None])), (None, 0))(weights, x)
        for conv in (_shifted, _native)
    )
    np.testing.assert_allclose(ours, native, rtol=1e-3, atol=1e-3)
