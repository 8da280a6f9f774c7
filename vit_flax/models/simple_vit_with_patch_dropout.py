"""Scaling Language-Image Pre-training via Masking (FLIP), arXiv:2212.00794.

vit-pytorch's `simple_vit_with_patch_dropout`: SimpleViT that reads only a random part of the
patches in training, which shortens the step and regularises.
"""

import jax.numpy as jnp
from jax import Array

from vit_flax.blocks.dropping import draw_patches
from vit_flax.models import simple_vit
from vit_flax.models.vit import published_size
from vit_flax.registry import Model


class SimpleViT(simple_vit.SimpleViT, kw_only=True):
    """SimpleViT with patch dropout (arXiv:2212.00794): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      patch_dropout: share of the patches that is left out in training, in [0, 1).
    """

    patch_dropout: float = 0.5

    def __call__(self, images: Array, train: bool = False, kept_patches: Array | None = None) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: leave patches out.
          kept_patches: int `[b kept]`, which patches are read; drawn from the rng `mask` when
            training and left out here (see `draw_patches`).
        """
        tokens = self.embed(images, train)
        if kept_patches is None and train and self.patch_dropout > 0:
            batch, patches, _ = tokens.shape
            kept_patches = draw_patches(self.make_rng('mask'), batch, patches, self.patch_dropout)
        if kept_patches is not None:
            tokens = jnp.take_along_axis(tokens, kept_patches[..., None], axis=1)
        return self.classify(self.encode(tokens, train))


MODEL = Model(
    SimpleViT,
    title='Scaling Language-Image Pre-training via Masking',
    arxiv='2212.00794',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
