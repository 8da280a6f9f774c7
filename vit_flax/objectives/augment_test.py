"""Random changes of images: each operation against what it must be on values that are known."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.objectives import augment

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 12, 20, 3)), jnp.float32)


@pytest.mark.parametrize('turns', [0.0, 0.25, -0.4, 1.0])
def test_hue_is_that_of_the_colour_circle(turns):
    got = np.asarray(augment.turn_hue(jnp.asarray(IMAGES), jnp.full(3, turns)))
    for place in np.ndindex(3, 4, 4):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, IMAGES[place]))
        np.testing.assert_allclose(got[place], colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), atol=1e-5)


def test_grey_has_no_colour_and_other_channels_stay():
    grey = np.asarray(augment.grey(jnp.asarray(IMAGES)))
    assert np.ptp(grey, axis=-1).max() == 0
    np.testing.assert_allclose(grey[..., 0], IMAGES @ jnp.array([0.299, 0.587, 0.114]), atol=1e-6)
    assert (augment.grey(IMAGES[..., :1]) == IMAGES[..., :1]).all()


@pytest.mark.parametrize('colour', ['brightness', 'contrast', 'saturation'])
def test_jitter_multiplies_the_distance_from_black_from_the_mean_and_from_grey(colour):
    images = jnp.tile(0.45 + 0.1 * IMAGES[:1], (200, 1, 1, 1))  # nothing is cut off at 0 or 1
    grey = augment.grey(images)
    origin = {'brightness': 0 * images, 'contrast': grey.mean((1, 2, 3), keepdims=True), 'saturation': grey}[colour]
    spreads = {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0, 'hue': 0.0, colour: 0.4}
    got = np.asarray(augment.jitter(jax.random.key(0), images, **spreads) - origin)
    distance = np.asarray(images - origin)
    factors = (got * distance).sum((1, 2, 3)) / (distance**2).sum((1, 2, 3))
    np.testing.assert_allclose(got, distance * factors[:, None, None, None], atol=1e-6)
    assert 0.6 <= factors.min() < 0.62 and 1.38 < factors.max() <= 1.4


def test_blur_is_a_gaussian_of_the_window():
    point = np.zeros((1, 9, 9, 1), np.float32)
    point[0, 4, 4] = 1
    got = np.asarray(augment.blur(jnp.asarray(point), jnp.asarray([0.8]), 5))[0, :, :, 0]
    line = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.8**2))
    line /= line.sum()
    np.testing.assert_allclose(got[2:7, 2:7], np.outer(line, line), atol=1e-6)
    assert got.sum() == pytest.approx(1, abs=1e-5)


def test_solarisation_inverts_what_is_bright():
    got = augment.solarise(jnp.asarray([0.2, 0.49, 0.5, 0.9]))
    np.testing.assert_allclose(got, [0.2, 0.49, 0.5, 0.1], atol=1e-6)


@pytest.mark.parametrize('mixture', [augment.byol_augment, augment.dino_augment])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_mixture_is_a_function_of_its_key_and_stays_in_range(mixture, channels):
    images = jnp.asarray(np.tile(IMAGES[:1, ..., :channels], (64, 1, 1, 1)))
    run = jax.jit(mixture)
    first, again, other = (np.asarray(run(jax.random.key(seed), images)) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert first.min() >= 0 and first.max() <= 1 + 1e-6
    # each image draws for itself
    assert len(np.unique(first.round(5).reshape(64, -1), axis=0)) > 20


def test_a_video_is_changed_alike_in_all_frames():
    video = jnp.asarray(np.repeat(IMAGES[:, None], 4, axis=1))
    changed = np.asarray(augment.photometric_augment(jax.random.key(3), video))
    assert changed.shape == video.shape and (changed != np.asarray(video)).any()
    assert np.ptp(changed, axis=1).max() <= 1e-6
