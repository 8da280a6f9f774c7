"""Relative position biases projected from the tokens; vit-pytorch's `simple_vit_with_relative_proj_pos_bias`.

SimpleViT whose attention scores get a bias of the distance between query and key along each axis:
each query weighs a bank of learned curves over the distance. No paper; vit-pytorch has it from a
language model.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import einsum_float32, take_rows
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class RelativeProjPositionalBias(Module):
    """Bias of the attention scores from tokens on a grid, `[b *grid d] -> [b e n n]`.

    Attributes:
      heads: of the attention.
      dim_pos: axes of the grid.
      num_distance_basis: learned curves for each axis.
      max_dist: distances of `max_dist` and more, along any axis, have no bias.
    """

    dim: int
    heads: int
    dim_pos: int = 2
    num_distance_basis: int = 16
    max_dist: int = 512

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        grid = x.shape[1:-1]
        if len(grid) != self.dim_pos:
            raise ValueError(f'expected tokens on a grid of dim_pos={self.dim_pos} axes, got shape {x.shape}')
        axes, curves = len(grid), self.num_distance_basis
        weights = Dense(self.heads * axes * curves, **self.precision, name='to_distance_weights')(x)
        weights = rearrange(weights, 'b ... (w e r) -> w b e (...) r', w=axes, e=self.heads)
        shape = (axes, curves, 2 * self.max_dist - 1)
        banks = self.param('distance_banks', normal(0.02), shape, self.param_dtype)
        weights, banks = self.promote(weights, banks)
        # A bias along one axis is the same for all keys that share the position on it, so each axis is
        # gathered for its own positions only and then spread over the grid.
        positions = np.stack([position.ravel() for position in np.indices(grid)])
        bias: Array | float = 0.0
        near: np.ndarray | bool = True
        for axis, size in enumerate(grid):
            distance = positions[axis][:, None] - np.arange(size)
            bank = take_rows(banks[axis].T, np.clip(distance + self.max_dist - 1, 0, 2 * self.max_dist - 2))
            along = einsum_float32('b e n r, n m r -> b e n m', weights[axis], bank)
            bias = bias + along[..., positions[axis]]
            near = near & (np.abs(distance) < self.max_dist)[:, positions[axis]]
        return jnp.where(near, bias, 0)

    torch_names = {'to_distance_weights': 'to_distance_weights.0'}


class Attention(Module):
    """Self-attention on a grid with projected position biases, `[b *grid d] -> [b *grid d]`."""

    heads: int = 8
    dim_head: int = 64
    num_distance_basis: int = 16
    max_dist: int = 512

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        *_, rows, _, dim = x.shape
        bias = RelativeProjPositionalBias(
            dim, self.heads, 2, self.num_distance_basis, self.max_dist, **self.precision, name='rel_pos_bias'
        )(x)
        x = LayerNorm(**self.precision, name='norm')(rearrange(x, 'b h w d -> b (h w) d'))
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5, bias=bias))
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(x)
        return rearrange(x, 'b (h w) d -> b h w d', h=rows)


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with projected position biases (no paper): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_distance_basis: learned curves for each axis.
      max_dist: distances of `max_dist` patches and more have no bias.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_distance_basis: int = 16
    max_dist: int = 512
    scan: bool = False
    remat: Remat = False

    # its tokens stay on their grid
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(Attention, self.heads, self.dim_head, self.num_distance_basis, self.max_dist, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, which stay on their grid, `[b H W c] -> [b h w d]`."""
        rows = self.grid.shape_of(images)[0]
        return rearrange(super().embed(images, train), 'b (h w) d -> b h w d', h=rows)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens.mean(axis=(1, 2))


CARD = ModelCard(
    SimpleViT,
    title='SimpleViT with projected relative position biases',
    arxiv='',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
