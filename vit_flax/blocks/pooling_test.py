import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks import pooling


@pytest.mark.parametrize(
    'shape, window',
    [((2, 9, 12, 3), ((3, 3), (2, 2), (1, 1))), ((1, 4, 5, 7, 2), ((1, 3, 2), (1, 2, 2), (0, 1, 0)))],
)
def test_both_forms_agree(shape, window):
    x = jax.random.normal(jax.random.key(0), shape)
    np.testing.assert_array_equal(pooling._shifted(x, *window), pooling._native(x, *window))
    ours, native = (jax.grad(lambda x, f=f: (f(x, *window) ** 2).sum())(x) for f in (pooling._shifted, pooling._native))
    np.testing.assert_allclose(ours, native, rtol=1e-6)


def test_gradient_of_equal_values_goes_to_the_first():
    gradient = jax.grad(lambda x: pooling.max_pool(x, (2,), (2,), (0,)).sum())(jnp.zeros((1, 4, 1)))
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 1, 0])
