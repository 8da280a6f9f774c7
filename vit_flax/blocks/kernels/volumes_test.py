"""Both forms of a 3-d convolution are the same, with their gradients and directional derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks.kernels import volumes


@pytest.mark.parametrize(
    'size, strides, padding',
    [((3, 5, 2), (1, 1, 1), (1, 2, 0)), ((2, 3, 3), (2, 1, 3), (0, 1, 1)), ((1, 2, 2), (3, 2, 1), (0, 0, 0))],
)
def test_frames_as_channels(size, strides, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 7, 8, 9, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, 3, 4)), jnp.float32)

    def run(convolve):
        def loss(x, kernel):
            out = convolve(x, kernel, strides, padding)
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

        @jax.jit
        def derivatives(x, kernel):
            (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)
            return out, *grads, jax.jvp(lambda *inputs: loss(*inputs)[1], (x, kernel), (x, kernel))[1]

        return derivatives(x, kernel)

    for mine, native in zip(run(volumes._by_frames), run(volumes._native), strict=True):
        assert mine.shape == native.shape
        np.testing.assert_allclose(mine, native, atol=1e-4)
