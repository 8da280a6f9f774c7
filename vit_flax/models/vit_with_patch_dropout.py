"""PatchDropout: Economizing Vision Transformers Using Patch Dropout, arXiv:2208.07220.

vit-pytorch's `vit_with_patch_dropout`: a ViT that reads only a random part of the patches in
training, which shortens the step and regularises. Patches get their positions before, the class
token comes after and has none; patches are projected without norms.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.patches import PatchProjection
from vit_flax.blocks.transformer import Remat
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vit import ViTBase, published_size


class ViT(ViTBase, kw_only=True):
    """ViT with patch dropout (arXiv:2208.07220): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      patch_dropout: share of the patches that is left out in training, in [0, 1).
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    patch_dropout: float = 0.25
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_positions(self) -> int:
        return 0

    def patch_embedding(self) -> nn.Module:
        return PatchProjection(self.patch_size, self.dim, **self.precision)

    def embed(self, images: Array, train: bool = False, kept_patches: Array | None = None) -> Array:
        x = self.add_positions(self.patch_tokens(images))
        if kept_patches is None and train and self.patch_dropout > 0:
            kept_patches = draw_patches(self.make_rng('mask'), x.shape[0], x.shape[1], self.patch_dropout)
        if kept_patches is not None:
            x = jnp.take_along_axis(x, kept_patches[..., None], axis=1)
        x = self.embedding_dropout(self.prepend(self.cls_token, x), deterministic=not train)
        return self.tap('embedding', x)

    def __call__(self, images: Array, train: bool = False, kept_patches: Array | None = None) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: leave patches out, and dropout.
          kept_patches: int `[b kept]`, which patches are read; drawn from the rng `mask` when
            training and left out here (see `draw_patches`).
        """
        tokens = self.encode(self.embed(images, train, kept_patches), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = {'cls_token': ('cls_token', UnitAxes((0,)))}


CARD = ModelCard(
    ViT,
    title='PatchDropout: Economizing Vision Transformers Using Patch Dropout',
    arxiv='2208.07220',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
