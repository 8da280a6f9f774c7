"""Random views: each operation against what it must be on values that are known."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.models.vit import ViT
from vit_flax.objectives import views
from vit_flax.objectives.dino import Dino

IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 12, 20, 3)), jnp.float32)


def test_boxes_lie_inside_and_cover_the_share_that_is_asked_for():
    boxes = np.asarray(views.draw_boxes(jax.random.key(0), 500, (30, 40), (0.1, 0.4)))
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 30 + 1e-4).all() and (left + width <= 40 + 1e-4).all()
    share = height * width / 1200
    assert 0.1 - 1e-4 <= share.min() < 0.12 and 0.37 < share.max() <= 0.4 + 1e-4
    aspect = width / height
    assert 0.75 - 1e-4 <= aspect.min() < 0.8 and 1.25 < aspect.max() <= 4 / 3 + 1e-4


def test_a_crop_of_the_whole_is_the_image_and_of_a_part_is_that_part():
    whole = jnp.tile(jnp.array([0.0, 0.0, 12.0, 20.0]), (3, 1))
    np.testing.assert_allclose(views.crop(IMAGES, whole, (12, 20)), IMAGES, atol=1e-6)
    half = views.crop(IMAGES, whole, (6, 10))
    np.testing.assert_allclose(half, jax.image.resize(IMAGES, (3, 6, 10, 3), 'linear'), atol=1e-6)
    part = jnp.tile(jnp.array([2.0, 5.0, 6.0, 8.0]), (3, 1))
    np.testing.assert_allclose(views.crop(IMAGES, part, (6, 8)), IMAGES[:, 2:8, 5:13], atol=1e-6)


@pytest.mark.parametrize('turns', [0.0, 0.25, -0.4, 1.0])
def test_hue_is_that_of_the_colour_circle(turns):
    got = np.asarray(views.turn_hue(jnp.asarray(IMAGES), jnp.full(3, turns)))
    for place in np.ndindex(3, 4, 4):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, IMAGES[place]))
        np.testing.assert_allclose(got[place], colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), atol=1e-5)


def test_grey_has_no_colour_and_other_channels_stay():
    grey = np.asarray(views.grey(jnp.asarray(IMAGES)))
    assert np.ptp(grey, axis=-1).max() == 0
    np.testing.assert_allclose(grey[..., 0], IMAGES @ jnp.array([0.299, 0.587, 0.114]), atol=1e-6)
    assert (views.grey(IMAGES[..., :1]) == IMAGES[..., :1]).all()


@pytest.mark.parametrize('colour', ['brightness', 'contrast', 'saturation'])
def test_jitter_multiplies_the_distance_from_black_from_the_mean_and_from_grey(colour):
    images = jnp.tile(0.45 + 0.1 * IMAGES[:1], (200, 1, 1, 1))  # nothing is cut off at 0 or 1
    grey = views.grey(images)
    origin = {'brightness': 0 * images, 'contrast': grey.mean((1, 2, 3), keepdims=True), 'saturation': grey}[colour]
    spreads = {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0, 'hue': 0.0, colour: 0.4}
    got = np.asarray(views.jitter(jax.random.key(0), images, **spreads) - origin)
    distance = np.asarray(images - origin)
    factors = (got * distance).sum((1, 2, 3)) / (distance**2).sum((1, 2, 3))
    np.testing.assert_allclose(got, distance * factors[:, None, None, None], atol=1e-6)
    assert 0.6 <= factors.min() < 0.62 and 1.38 < factors.max() <= 1.4


def test_blur_is_a_gaussian_of_the_window():
    point = np.zeros((1, 9, 9, 1), np.float32)
    point[0, 4, 4] = 1
    got = np.asarray(views.blur(jnp.asarray(point), jnp.asarray([0.8]), 5))[0, :, :, 0]
    line = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.8**2))
    line /= line.sum()
    np.testing.assert_allclose(got[2:7, 2:7], np.outer(line, line), atol=1e-6)
    assert got.sum() == pytest.approx(1, abs=1e-5)


def test_solarisation_inverts_what_is_bright():
    got = views.solarise(jnp.asarray([0.2, 0.49, 0.5, 0.9]))
    np.testing.assert_allclose(got, [0.2, 0.49, 0.5, 0.1], atol=1e-6)


@pytest.mark.parametrize('augment', [views.byol_augment, views.dino_augment])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_mixture_is_a_function_of_its_key_and_stays_in_range(augment, channels):
    images = jnp.asarray(np.tile(IMAGES[:1, ..., :channels], (64, 1, 1, 1)))
    run = jax.jit(augment)
    first, again, other = (np.asarray(run(jax.random.key(seed), images)) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert first.min() >= 0 and first.max() <= 1 + 1e-6
    # each image draws for itself
    assert len(np.unique(first.round(5).reshape(64, -1), axis=0)) > 20


def test_a_video_is_changed_alike_in_all_frames():
    video = jnp.asarray(np.repeat(IMAGES[:, None], 4, axis=1))
    changed = np.asarray(views.photometric_augment(jax.random.key(3), video))
    assert changed.shape == video.shape and (changed != np.asarray(video)).any()
    assert np.ptp(changed, axis=1).max() <= 1e-6


def test_views_of_an_objective_have_the_sizes_that_it_says():
    net = ViT(image_size=(8, 12), patch_size=4, num_classes=3, dim=8, depth=1, heads=1, mlp_dim=8)
    dino = Dino(net=net, image_size=(8, 12), num_local_views=5, local_size=6)
    drawn = jax.eval_shape(dino.draw, jax.random.key(0), IMAGES)
    assert {name: array.shape for name, array in drawn.items()} == {
        'global_views': (2, 3, 8, 12, 3),
        'local_views': (5, 3, 6, 6, 3),
    }
