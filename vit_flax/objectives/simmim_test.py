from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_flax.models import simple_vit, vit
from vit_flax.objectives.simmim import SimMIM, draw_mask

SMALL: Any = dict(image_size=16, patch_size=2, num_classes=5, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=24)
IMAGES: Any = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
KEY = jax.random.key(0)


def test_paper_hides_blocks_and_averages():
    simmim: Any = SimMIM.paper(vit.ViT(**SMALL), mask_patch_size=4)
    assert simmim.masking_ratio == 0.6 and simmim.mean_loss and simmim.class_token
    assert not SimMIM.paper(simple_vit.SimpleViT(**SMALL)).class_token
    draws = simmim.draw(KEY, IMAGES)
    # 9 of 16 blocks of 2 x 2 patches
    assert draws['masked'].shape == (2, 36)
    variables = jax.jit(simmim.init)(KEY, IMAGES)
    loss = simmim.apply(variables, IMAGES, **draws)
    upstreams = simmim.clone(mean_loss=False).apply(variables, IMAGES, **draws)
    np.testing.assert_allclose(upstreams * 36, loss, rtol=1e-5)


def test_reconstruction_is_what_the_loss_measures():
    simmim: Any = SimMIM(encoder=simple_vit.SimpleViT(**SMALL), mean_loss=True)
    variables = jax.jit(simmim.init)(KEY, IMAGES)
    draws = draw_mask(KEY, 2, 64)
    picture = simmim.apply(variables, IMAGES, **draws, method='reconstruct')
    changed = np.abs(picture - IMAGES).sum() / (32 * 12 * 2)
    np.testing.assert_allclose(changed, simmim.apply(variables, IMAGES, **draws), rtol=1e-5)


def test_rng():
    simmim: Any = SimMIM(encoder=simple_vit.SimpleViT(**SMALL))
    variables = jax.jit(simmim.init)(KEY, IMAGES)
    run = jax.jit(simmim.apply)
    drawn = [run(variables, jnp.asarray(IMAGES), rngs={'mask': jax.random.key(seed)}) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
