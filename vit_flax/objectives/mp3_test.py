from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_flax.objectives.mp3 import MP3, ViT, draw_mask

SMALL: Any = dict(image_size=12, patch_size=4, num_classes=5, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=24)
IMAGES: Any = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
KEY = jax.random.key(0)


def test_places_are_told_from_content_alone():
    """Patches that change places take their answers with them."""
    mp3: Any = MP3(vit=ViT(**SMALL), masking_ratio=0.4)
    variables = jax.jit(mp3.init)(KEY, IMAGES)
    visible = draw_mask(KEY, 2, 9, 0.4)['visible']
    assert visible.shape == (2, 6)
    places = mp3.apply(variables, IMAGES, visible, method='predict')
    turned = IMAGES.reshape(2, 3, 4, 12, 3)[:, ::-1].reshape(IMAGES.shape)
    moved = mp3.apply(variables, turned, (2 - visible // 3) * 3 + visible % 3, method='predict')
    np.testing.assert_allclose(moved.reshape(2, 3, 3, 9)[:, ::-1].reshape(2, 9, 9), places, atol=1e-5)


def test_rng():
    mp3: Any = MP3(vit=ViT(**SMALL), masking_ratio=0.75)
    variables = jax.jit(mp3.init)(KEY, IMAGES)
    run = jax.jit(mp3.apply)
    drawn = [run(variables, jnp.asarray(IMAGES), rngs={'mask': jax.random.key(seed)}) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
