from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks.backend import compiling_for
from vit_flax.blocks.kernels.depthwise import _native, _shifted, depthwise_conv

SHAPES = [
    ((9, 7), (3, 3), 2, 1),
    ((10, 8), (5, 3), 3, 2),
    ((8, 8), (1, 1), 2, 0),
    ((6, 9), (3, 2), 1, 0),
    ((5, 4), (2, 3), 2, 4),
]
ORDERS = [(jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd), (jax.jacrev, jax.jacrev)]


def example(size, kernel, batch=2, channels=5):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(batch, *size, channels))), jnp.asarray(rng.normal(size=(*kernel, 1, channels)))


@pytest.mark.parametrize('size, kernel, stride, padding', SHAPES)
def test_shifted_sums_equal_the_native_operation(size, kernel, stride, padding):
    """Values, gradients, and derivatives in forward mode, of each argument alone and of both."""
    with jax.enable_x64(True):
        x, weights = example(size, kernel)
        x_dot, weights_dot = jnp.cos(x), jnp.sin(weights)

        @partial(jax.jit, static_argnums=0)
        def derivatives(conv, x, weights):
            def run(x, weights):
                return conv(x, weights, stride, padding)

            out, out_dot = jax.jvp(run, (x, weights), (x_dot, weights_dot))
            alone = [
                jax.jvp(lambda x: run(x, weights), (x,), (x_dot,))[1],
                jax.jvp(lambda weights: run(x, weights), (weights,), (weights_dot,))[1],
            ]
            return out, out_dot, *alone, *jax.vjp(run, x, weights)[1](jnp.cos(out))

        got, want = derivatives(depthwise_conv, x, weights), derivatives(_native, x, weights)
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_second_derivatives_and_per_example_gradients():
    """Forward over reverse mode, reverse over forward, reverse over reverse."""
    with jax.enable_x64(True):
        x, weights = example((4, 5), (3, 3), channels=1)

        @partial(jax.jit, static_argnums=0)
        def derivatives(conv, weights, x):
            def loss(weights, x):
                return (conv(x, weights, 1, 1) ** 3).sum()

            each = jax.vmap(jax.grad(loss), (None, 0))(weights, x[:, None])
            return [second(first(loss))(weights, x) for second, first in ORDERS], each

        ours, want = derivatives(_shifted, weights, x), derivatives(_native, weights, x)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10), ours, want)


def test_other_platforms_get_the_native_operation():
    x, weights = np.ones((1, 8, 8, 4), np.float32), np.ones((3, 3, 1, 4), np.float32)
    run = jax.jit(lambda x, w: depthwise_conv(x, w, 1, 1))
    for platform, native in (('cpu', False), ('tpu', True), ('cuda', True)):
        with compiling_for(platform):
            text = run.trace(x, weights).lower(lowering_platforms=(platform,)).as_text()
        assert ('stablehlo.convolution' in text) == native


def test_gradients_in_16_bits_are_sums_in_float32():
    x, weights = (array.astype(jnp.bfloat16) for array in example((40, 40), (3, 3)))
    x = x + 3

    @partial(jax.jit, static_argnums=0)
    def gradient(conv, weights, x):
        return jax.grad(lambda weights: conv(x, weights, 1, 1).sum())(weights)

    exact = gradient(_native, weights.astype(jnp.float32), x.astype(jnp.float32))
    got = gradient(_shifted, weights, x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=2**-8)
