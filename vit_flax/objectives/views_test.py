"""Views: boxes and crops against what they must be on values that are known, and the sizes of what is drawn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.models.vit import ViT
from vit_flax.objectives import dino, es_vit, lejepa, levjepa, levjepa_nd, views

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


NET = ViT(image_size=(8, 12), patch_size=4, num_classes=3, dim=8, depth=1, heads=1, mlp_dim=8)
# Upstream's constructor, its loss and its views.
COMPOSED: list[tuple[Any, Any, Any]] = [
    (dino.Dino, dino.DinoLoss, views.MultiCrop),
    (es_vit.EsViTTrainer, es_vit.EsViTLoss, views.MultiCrop),
    (lejepa.LeJEPA, lejepa.LeJEPALoss, views.MultiCrop),
    (levjepa.LeVJEPA, levjepa.LeVJEPALoss, views.VideoCrops),
]


def shapes_of(drawn):
    return {name: array.shape for name, array in drawn.items()}


@pytest.mark.parametrize('whole, loss, crops', COMPOSED)
def test_a_constructor_has_the_arguments_of_its_loss_and_of_its_views(whole, loss, crops):
    names = [{field.name: field.default for field in dataclasses.fields(part)} for part in (whole, loss, crops)]
    assert names[0] == {**names[1], **names[2]} and not names[1].keys() & names[2].keys()


def test_views_of_an_objective_have_the_sizes_that_it_says():
    objective = dino.Dino(net=NET, image_size=(8, 12), num_local_views=5, local_size=6)
    wanted = {'global_views': (2, 3, 8, 12, 3), 'local_views': (5, 3, 6, 6, 3)}
    assert shapes_of(jax.eval_shape(objective.draw, jax.random.key(0), IMAGES)) == wanted
    assert [spec.shape for spec in objective.example_input()] == [(2, 2, 8, 12, 3), (5, 2, 6, 6, 3)]
    alone = views.MultiCrop(num_local_views=1)
    wanted = {'global_views': (2, 3, 12, 20, 3), 'local_views': (1, 3, 12, 20, 3)}
    assert shapes_of(jax.eval_shape(alone.draw, jax.random.key(0), IMAGES)) == wanted, 'as large as the images'


def test_views_are_values_and_draw_what_the_constructor_draws():
    given: dict[str, Any] = dict(image_size=(8, 12), num_local_views=1, augment_fn=lambda rng, images: 1 - images)
    crops = views.MultiCrop(**given)
    assert crops == views.MultiCrop(**given) and hash(crops) == hash(views.MultiCrop(**given))
    assert crops != dataclasses.replace(crops, num_local_views=2)
    mine, theirs = (
        jax.jit(drawn)(jax.random.key(1), IMAGES) for drawn in (crops.draw, dino.Dino(net=NET, **given).draw)
    )
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_an_objective_draws_what_its_call_takes():
    """Views, patches to keep and directions, of videos and of other grids."""
    widths: dict[str, Any] = dict(patch_size=4, dim=8, depth=1, heads=1, dim_head=8, mlp_dim=8)
    video = levjepa.VideoTransformer(image_size=8, frames=2, **widths)
    series = levjepa_nd.NDTransformer(ndim=1, input_shape=12, **widths)
    cases: list[tuple[Any, Any]] = [
        (levjepa.LeVJEPA.paper(video, 8, num_classes_K=4, projection_hidden=8), jnp.zeros((3, 2, 12, 20, 3))),
        (levjepa_nd.LeVJEPAND.paper(series, num_classes_K=4, projection_hidden=8), jnp.zeros((3, 12, 3))),
        (lejepa.LeJEPA.paper(NET, (8, 12), num_local_views=1, num_classes_K=4, projection_hidden_size=8), IMAGES),
    ]
    for objective, images in cases:

        def loss(objective=objective, images=images):
            return objective.init_with_output(
                jax.random.key(0), **objective.draw(jax.random.key(1), images), train=True
            )

        assert jax.eval_shape(loss)[0].shape == ()


def test_views_of_videos_and_of_grids():
    videos = jnp.zeros((3, 4, 12, 20, 3))
    crops = views.VideoCrops(image_size=8, local_size=None, num_local_views=2)
    wanted = {'global_views': (1, 3, 4, 8, 8, 3), 'local_views': (2, 3, 4, 8, 8, 3)}
    assert shapes_of(jax.eval_shape(crops.draw, jax.random.key(0), videos)) == wanted
    grids = views.GridViews(augment_tgt=lambda rng, x: x + jax.random.normal(rng, x.shape), num_target_aug_views=2)
    drawn = grids.draw(jax.random.key(0), jnp.zeros((3, 5, 2)))
    assert shapes_of(drawn) == {'global_views': (1, 3, 5, 2), 'local_views': (2, 3, 5, 2)}
    assert not drawn['global_views'].any() and (drawn['local_views'][0] != drawn['local_views'][1]).all()


@pytest.mark.parametrize(
    'make, says',
    [
        (lambda: views.MultiCrop(num_local_views=0), 'num_local_views=0 must be at least 1'),
        (lambda: views.MultiCrop(local_size=0), 'local_size=0 must be at least 1'),
        (
            lambda: views.MultiCrop(global_lower_crop_scale=1.5),
            'global_lower_crop_scale=1.5 must be above 0 and at most',
        ),
        (lambda: views.MultiCrop(local_upper_crop_scale=0.01), 'must be at least local_lower_crop_scale=0.05'),
        (lambda: views.MultiCrop(augment_fn=3), 'augment_fn=3 must be a function'),  # type: ignore[arg-type]
        (
            lambda: views.MultiCrop(image_size=(2, 3, 4)).draw(jax.random.key(0), IMAGES),
            r'image_size=\(2, 3, 4\) must be',
        ),
        (lambda: views.MultiCrop().draw(jax.random.key(0), IMAGES[0]), r'images of shape .* must be \[b h w c\]'),
        (lambda: views.VideoCrops().draw(jax.random.key(0), IMAGES), r'videos of shape .* must be \[b t h w c\]'),
        (lambda: views.VideoCrops(num_local_views=0), 'num_local_views=0 must be at least 1'),
        (lambda: views.GridViews(num_target_aug_views=0), 'num_target_aug_views=0 must be at least 1'),
    ],
)
def test_mistakes(make, says):
    with pytest.raises(ValueError, match=says):
        make()
