"""What rotary positions promise: lengths stay, and products tell only the distance."""

import jax.numpy as jnp
import numpy as np

from vit_flax.blocks.rotary import (
    axial_angles,
    golden_gate_directions,
    golden_gate_frequencies,
    grid_angles,
    rotate,
)

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


def test_golden_gate_directions_look_everywhere():
    for axes in (2, 3, 4):
        directions = golden_gate_directions(600, axes)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
        assert np.abs(directions.mean(axis=0)).max() < 0.02
        np.testing.assert_allclose(directions.T @ directions / 600, np.eye(axes) / axes, atol=0.03)
    np.testing.assert_array_equal(np.abs(golden_gate_directions(5, 1)), 1)


def test_golden_gate_frequencies_grow_from_the_lowest_to_the_highest():
    frequencies = golden_gate_frequencies(heads=2, count=5, axes=3, min_freq=0.5, max_freq=8.0, p_zero_freqs=0.4)
    want = np.array([0, 0, 0.5, 2.0, 8.0])
    np.testing.assert_allclose(np.linalg.norm(frequencies, axis=-1), np.stack([want, want]))


def test_angles_of_a_grid_are_products_with_the_places():
    frequencies = RNG.normal(size=(2, 4, 3))
    angles = grid_angles((2, 3, 5), jnp.asarray(frequencies, jnp.float32))
    assert angles.shape == (2, 30, 4)
    place = np.array([1, 2, 3])
    np.testing.assert_allclose(angles[:, 1 * 15 + 2 * 5 + 3], frequencies @ place, rtol=1e-5)
