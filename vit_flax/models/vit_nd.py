"""An Image is Worth 16x16 Words, arXiv:2010.11929, for grids of 1 to 7 axes.

vit-pytorch's `vit_nd`: a ViT of series, images, videos, volumes over time and so on. Attention may be
causal along some of the axes, so that tokens attend to none of later time steps. Patches are
normalised behind their projection alone, and the average leaves the class token out.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.grids import Grid, nd_grid
from vit_flax.blocks.patches import NormedPatchProjection
from vit_flax.blocks.transformer import Remat
from vit_flax.blocks.vit_nd_masking import dense_mask, get_nd_causal_mask_fn
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase


class KeptMaps(Attention):
    """Attention whose maps are not dropped, `[b n d] -> [b n d]`."""

    # upstream: `dropout` never reaches the attention maps, only what the attention puts out.
    @property
    def map_dropout(self) -> float:
        return 0.0


class CausalViTBase(ViTBase, kw_only=True):
    """What the ViTs of n axes share: their patches, their trunk, and masks along some axes.

    Attributes:
      ndim: number of axes.
      input_shape: lengths of these axes, or one number for all.
      patch_size: of a patch, likewise; must divide the input's.
      causal_dims: axes (or one axis) of the grid with causal attention; a
        class token attends to all tokens and all attend to it.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    ndim: int
    input_shape: int | Sequence[int]
    patch_size: int | Sequence[int]
    causal_dims: int | Sequence[int] | None = None
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return nd_grid(self.ndim, self.input_shape, self.patch_size, self.channels)

    def patch_embedding(self) -> nn.Module:
        return NormedPatchProjection(self.grid.patch, self.dim, **self.precision)

    def mask(self) -> np.ndarray | None:
        """Attention mask, bool `[n n]`; None without causal axes."""
        mask_fn = get_nd_causal_mask_fn(self.grid.shape, self.causal_dims, self.ndim, has_cls=self.num_cls_tokens > 0)
        return None if mask_fn is None else dense_mask(mask_fn, self.num_cls_tokens + self.grid.num_patches)

    def check_shape(self, x: Array, why: str) -> None:
        """Raises unless the input has the shape that the model is built for."""
        if x.shape[1:-1] != self.grid.lengths:
            raise ValueError(f'input of shape {x.shape} must be of input_shape={self.grid.lengths}: {why}')

    def on_grid(self, tokens: Array, grid: Sequence[int]) -> Array:
        """Patch tokens on their grid, `[b n d] -> [b *grid d]`."""
        return tokens.reshape(tokens.shape[0], *grid, tokens.shape[-1])


class ViTND(CausalViTBase, kw_only=True):
    """ViT of n axes (arXiv:2010.11929): `[b *grid c]` to logits `[b num_classes]`.

    Attributes:
      pool: 'cls' classifies the class token, 'mean' the average of all others.
    """

    pool: str = 'cls'

    def attention(self) -> Callable[..., nn.Module]:
        return partial(KeptMaps, self.heads, self.dim_head, self.dropout, **self.precision)

    def embed(self, x: Array, train: bool = False) -> Array:
        """Grids to tokens with positions, class token first, `[b *grid c] -> [b 1+n d]`."""
        self.grid.check(x)
        self.check_shape(x, 'positions are of this grid')
        return super().embed(x, train)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.transformer(tokens, self.mask(), train=train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens[:, 0] if self.pool == 'cls' else tokens[:, 1:].mean(axis=1)

    def __call__(self, x: Array, train: bool = False, return_nd_patches: bool = False) -> Any:
        """Grids to logits.

        Args:
          x: `[b *grid c]`.
          train: dropout.
          return_nd_patches: instead of the logits return the class token `[b d]` and the patches `[b *grid d]`.
        """
        tokens = self.encode(self.embed(x, train), train)
        if return_nd_patches:
            return tokens[:, 0], self.on_grid(tokens[:, 1:], self.grid.shape)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = BATCH_AXES


CARD = ModelCard(
    ViTND,
    title='An Image is Worth 16x16 Words, for grids of any number of axes',
    arxiv='2010.11929',
    takes='n-d [b *grid c]',
    paper_size=dict(
        causal_dims=(0,),
        input_shape=(8, 16, 32, 64),
        patch_size=(2, 4, 4, 8),
        ndim=4,
        dim=512,
        depth=6,
        heads=8,
        mlp_dim=2048,
        num_classes=1000,
    ),
)
