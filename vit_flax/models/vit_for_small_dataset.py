"""Vision Transformer for Small-Size Datasets, arXiv:2112.13492.

vit-pytorch's `vit_for_small_dataset`: a ViT that learns from little. Patches are cut from the image
together with shifted copies of it, and attention has a learned temperature and leaves out the
token's own position.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.checks import check_images, pair
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import patchify
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase


class LSA(Module):
    """Locality self-attention: learned temperature, no token attends to itself, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        tokens, dim = x.shape[1:]
        start = constant(math.log(self.dim_head**-0.5))
        temperature = self.param('temperature', start, (), self.param_dtype)
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        q = self.cast(to_float32(q) * jnp.exp(to_float32(temperature)), q, temperature)
        others = ~jnp.eye(tokens, dtype=bool)
        x = attend(self, q, k, v, scale=1.0, mask=others, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


def shifted(images: Array, down: int, right: int) -> Array:
    """The image shifted by pixels, padded with zeros, `[b h w c] -> [b h w c]`."""
    _, height, width, _ = images.shape
    around = [(max(step, 0), max(-step, 0)) for step in (down, right)]
    images = jnp.pad(images, ((0, 0), *around, (0, 0)))
    top, left = max(-down, 0), max(-right, 0)
    return images[:, top : top + height, left : left + width]


class SPT(Module, kw_only=True):
    """Shifted patch tokenization, `[b h w c] -> [b n dim]`.

    Attributes:
      dim: width of a token.
      patch_size: height and width of a patch, or one number for both.
      channels: of the images.
      paper_shifts: shift as the paper does, diagonally by half a patch.
    """

    dim: int
    patch_size: int | Sequence[int]
    channels: int = 3
    paper_shifts: bool = False

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        check_images(images, self.channels)
        # upstream: the copies are shifted by one pixel to the right, the left, down and up, where the paper
        # shifts them diagonally by half a patch; `paper_shifts=True` does that.
        steps = [(0, 1), (0, -1), (1, 0), (-1, 0)]
        if self.paper_shifts:
            p, q = (size // 2 for size in pair(self.patch_size, 'patch_size'))
            steps = [(-p, -q), (-p, q), (p, -q), (p, q)]
        images = jnp.concatenate([images, *(shifted(images, *step) for step in steps)], axis=-1)
        x = rearrange(patchify(images, self.patch_size), 'b h w c -> b (h w) c')
        x = LayerNorm(**self.precision, name='norm')(x)
        return Dense(self.dim, **self.precision, name='projection')(x)

    torch_names = {'norm': 'to_patch_tokens.1', 'projection': 'to_patch_tokens.2'}


class ViT(ViTBase, kw_only=True):
    """ViT for small datasets (arXiv:2112.13492): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      paper_shifts: shift the copies of the image as the paper does, diagonally by half a patch.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    paper_shifts: bool = False
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    norm_in_head = True
    # a token covers more of the image than its patch
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def patch_embedding(self) -> nn.Module:
        return SPT(
            dim=self.dim,
            patch_size=self.patch_size,
            channels=self.channels,
            paper_shifts=self.paper_shifts,
            **self.precision,
        )

    def patch_tokens(self, images: Array) -> Array:
        return self.to_patch_embedding(images)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(LSA, self.heads, self.dim_head, self.dropout, **self.precision)

    torch_names = BATCH_AXES


CARD = ModelCard(
    ViT,
    title='Vision Transformer for Small-Size Datasets',
    arxiv='2112.13492',
    takes='image [b h w c]',
    paper_size=dict(image_size=64, patch_size=8, num_classes=200, dim=192, depth=9, heads=12, dim_head=16, mlp_dim=384),
)
