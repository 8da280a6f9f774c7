from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vit_flax.models.vit import ViT
from vit_flax.objectives.mpp import MPP, draw_corruption

SMALL: Any = dict(image_size=12, patch_size=4, num_classes=5, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=24)
SIZES: Any = dict(patch_size=4, dim=16)
KEY = jax.random.key(0)


def test_shares_of_the_draw():
    draws = draw_corruption(KEY, 400, 50, mask_prob=0.5, replace_prob=0.8, random_patch_prob=0.1)
    asked = np.zeros((400, 50), bool)
    np.put_along_axis(asked, np.asarray(draws['masked']), True, axis=1)
    assert (asked.sum(axis=1) == 25).all()
    replaced = asked & draws['replaced']
    others = asked & ~draws['replaced'] & draws['randomised']
    np.testing.assert_allclose([replaced.sum() / asked.sum(), others.sum() / asked.sum()], [0.8, 0.1], atol=0.02)
    assert draws['sources'].min() == 0 and draws['sources'].max() == 49
    assert draw_corruption(KEY, 2, 10, replace_prob=1.0)['replaced'].all()


def test_labels_are_digits_of_the_mean_colour():
    mpp: Any = MPP(transformer=ViT(**SMALL), **SIZES)
    image = np.zeros((1, 12, 12, 3), np.float32)
    image[:, :4, :4] = [0.05, 0.3, 1.5]
    variables = jax.jit(mpp.init)(KEY, image)
    labels = nn.apply(lambda mpp, image: mpp.labels(image), mpp)(variables, image)
    assert labels[0, 0] == 0 + 2 * 8 + 7 * 64 and not labels[0, 1:].any()


@pytest.mark.parametrize('colours', [{}, dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))])
def test_reconstruction_is_of_the_likeliest_colour(colours):
    mpp: Any = MPP.paper(ViT(**SMALL), **colours)
    images = np.random.default_rng(0).uniform(size=(2, 12, 12, 3)).astype(np.float32)
    variables = jax.jit(mpp.init)(KEY, images)
    draws = mpp.draw(KEY, images)
    picture = mpp.apply(variables, images, **draws, method='reconstruct')
    logits = mpp.apply(variables, images, **draws, method='predict')
    labels = nn.apply(lambda mpp, picture: mpp.labels(picture), mpp)(variables, picture)
    np.testing.assert_array_equal(jnp.take_along_axis(labels, draws['masked'], axis=1), logits.argmax(-1))
    assert mpp.apply(variables, images, **draws) == mpp.apply(variables, images, **draws)


def test_draws_all_or_none():
    mpp: Any = MPP(transformer=ViT(**SMALL), **SIZES)
    with pytest.raises(ValueError, match='masked, replaced, randomised and sources must be given all, or none'):
        mpp.init(KEY, jnp.zeros((1, 12, 12, 3)), jnp.zeros((1, 2), int))
