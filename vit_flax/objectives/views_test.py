"""Views: boxes and crops against what they must be on values that are known, and the sizes of what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_views_of_an_objective_have_the_sizes_that_it_says():
    net = ViT(image_size=(8, 12), patch_size=4, num_classes=3, dim=8, depth=1, heads=1, mlp_dim=8)
    dino = Dino(net=net, image_size=(8, 12), num_local_views=5, local_size=6)
    drawn = jax.eval_shape(dino.draw, jax.random.key(0), IMAGES)
    assert {name: array.shape for name, array in drawn.items()} == {
        'global_views': (2, 3, 8, 12, 3),
        'local_views': (5, 3, 6, 6, 3),
    }
