"""The draws: how many, which, how often."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.layer_scale import draw_layers, surviving_layers


@pytest.mark.parametrize('rate, kept', [(0.0, 12), (0.25, 9), (0.3, 8), (0.99, 1)])
def test_patches_of_each_image_are_distinct(rate: float, kept: int):
    patches = np.asarray(draw_patches(jax.random.key(0), 5, 12, rate))
    assert patches.shape == (5, kept)
    assert patches.min() >= 0 and patches.max() < 12
    assert all(len(set(row)) == kept for row in patches.tolist())


def test_every_patch_stays_equally_often():
    patches = np.asarray(draw_patches(jax.random.key(1), 4000, 8, 0.5))
    share = np.bincount(patches.ravel(), minlength=8) / 4000
    np.testing.assert_allclose(share, 0.5, atol=0.05)


def test_never_are_all_layers_dropped():
    draw = jax.jit(jax.vmap(draw_layers, in_axes=(0, None, None)), static_argnums=(1, 2))
    rngs = jax.random.split(jax.random.key(2), 500)
    assert draw(rngs, 3, 0.9).any(axis=1).all()
    assert draw(rngs, 3, 0.0).all()


class Trunk(nn.Module):
    rate: float = 0.5

    def __call__(self, keep=None, train=False):
        return surviving_layers(self, 40, self.rate, keep, train)


def test_layers_are_drawn_in_training_alone_unless_they_are_given():
    trunk: Any = Trunk()
    kept = trunk.apply({}, train=True, rngs={'drop_path': jax.random.key(0)})['keep']
    assert kept.shape == (40,) and 10 < kept.sum() < 30
    assert trunk.apply({}) == Trunk(rate=0.0).apply({}, train=True) == {}
    given = np.arange(40) < 3
    assert trunk.apply({}, given, train=True)['keep'] is given
