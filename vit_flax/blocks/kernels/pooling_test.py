from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks.kernels import pooling

WINDOWS = [((2, 9, 12, 3), ((3, 3), (2, 2), (1, 1))), ((1, 4, 5, 7, 2), ((1, 3, 2), (1, 2, 2), (0, 1, 0)))]


@pytest.mark.parametrize('shape, window', WINDOWS)
def test_both_forms_agree(shape, window):
    """Values and derivatives: in forward mode, in reverse mode, and one over the other."""
    x = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_array_equal(pooling._shifted(x, *window), pooling._native(x, *window))

    @partial(jax.jit, static_argnums=0)
    def derivatives(pool, x):
        def loss(x):
            return (pool(x, *window) ** 3).sum()

        along = jnp.cos(x)
        directional = jax.jvp(lambda x: pool(x, *window), (x,), (along,))[1]
        second = jax.grad(lambda x: jax.jvp(loss, (x,), (along,))[1])(x)
        return directional, jax.grad(loss)(x), jax.jvp(jax.grad(loss), (x,), (along,))[1], second

    ours, native = derivatives(pooling._shifted, x), derivatives(pooling._native, x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), ours, native)
    np.testing.assert_allclose(ours[2], ours[3], rtol=1e-5)


def test_forward_equals_reverse_mode():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 4, 2)))

        def pool(x):
            return pooling.max_pool(x, (3, 2), (2, 1), (1, 0)) ** 2

        forward, reverse = jax.jit(lambda x: (jax.jacfwd(pool)(x), jax.jacrev(pool)(x)))(x)
        np.testing.assert_allclose(forward, reverse, rtol=1e-12)


def test_gradient_of_equal_values_goes_to_the_first():
    gradient = jax.grad(lambda x: pooling.max_pool(x, (2,), (2,), (0,)).sum())(jnp.zeros((1, 4, 1)))
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 1, 0])
