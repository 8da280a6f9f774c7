"""What rotary positions promise: lengths stay, and products tell only the distance."""

import jax.numpy as jnp
import numpy as np

from vit_flax.blocks.rotary import axial_angles, rotate

RNG = np.random.default_rng(0)


def test_each_axis_has_channels_of_its_own():
    angles = axial_angles([jnp.arange(3.0), jnp.arange(2.0)], jnp.array([1.0, 10.0]))
    np.testing.assert_array_equal(angles[:, 0], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(angles[:, 3], [0, 10, 0, 10, 0, 10])


def test_products_depend_on_the_distance_alone():
    angles = axial_angles([jnp.arange(6.0)], jnp.array([0.3, 0.7]))
    q, k = (jnp.broadcast_to(jnp.asarray(RNG.normal(size=5), jnp.float32), (6, 5)) for _ in 'qk')
    scores = rotate(q, angles) @ rotate(k, angles).T
    for distance in range(-4, 5):
        np.testing.assert_allclose(np.diagonal(scores, distance), np.diagonal(scores, distance)[0], rtol=1e-5)
    assert np.ptp(scores) > 0.1


def test_channels_without_an_angle_and_tokens_at_zero_stay():
    x = jnp.asarray(RNG.normal(size=(2, 3, 4, 7)), jnp.float32)
    turned = rotate(x, jnp.zeros((4, 2)).at[1:].set(1.3))
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_array_equal(turned[:, :, 0], x[:, :, 0])
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-6)
    assert jnp.abs(turned[:, :, 1:, :4] - x[:, :, 1:, :4]).min() > 0
