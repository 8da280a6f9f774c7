"""Scaling Language-Image Pre-training via Masking (FLIP), arXiv:2212.00794.

vit-pytorch's `simple_vit_with_patch_dropout`: SimpleViT that reads only a random part of the
patches in training, which shortens the step and regularises.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with patch dropout (arXiv:2212.00794): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      patch_dropout: share of the patches that is left out in training, in [0, 1).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    patch_dropout: float = 0.5
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

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
        tokens = self.encode(tokens, train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens


CARD = ModelCard(
    SimpleViT,
    title='Scaling Language-Image Pre-training via Masking',
    arxiv='2212.00794',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
