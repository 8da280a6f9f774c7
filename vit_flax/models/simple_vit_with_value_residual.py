"""Value Residual Learning, arXiv:2410.17897.

vit-pytorch's `simple_vit_with_value_residual`: SimpleViT whose blocks mix the values of their
attention with those of the first block, by a factor that each token and head learns.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import multiply, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import BARE_SIMPLE_FEEDFORWARD, Remat, SimpleFeedForward, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class Attention(Module):
    """Self-attention, `[b n d] -> [b n d]` and its values `[b e n k]`; mixed with the first block's if given."""

    heads: int = 8
    dim_head: int = 64

    @nn.compact
    def __call__(self, x: Array, first_values: Array | None = None) -> tuple[Array, Array]:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * inner, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        if first_values is not None:
            mix = jax.nn.sigmoid(to_float32(Dense(self.heads, **self.precision, name='to_residual_mix')(x)))
            mix = rearrange(mix, 'b n e -> b e n 1')
            v = multiply(v, mix) + multiply(first_values, 1 - mix)
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5))
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(x), v

    torch_names = {'to_residual_mix': 'to_residual_mix.0'}


class ValueResidualBlock(Module):
    """Attention and a feed-forward network, `[b n d] -> [b n d]`; of the first block also its values, `[b e n k]`."""

    heads: int
    dim_head: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: Array, first_values: Array | None = None, train: bool = False) -> Any:
        attention = Attention(self.heads, self.dim_head, **self.precision, name='attention')
        update, values = attention(x, first_values)
        x = x + update
        x = x + SimpleFeedForward(self.mlp_dim, **self.precision, name='feedforward')(x)
        x = self.tap('block', x)
        return (x, values) if first_values is None else x

    torch_names = {'attention': '0', 'feedforward': ('1', BARE_SIMPLE_FEEDFORWARD)}


class ValueResidualTransformer(Transformer):
    """A first block, then those of a `Transformer`, which mix their values with the first's."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:  # type: ignore[override]
        x, values = self.block(name='first')(x)
        return super().__call__(x, values, train=train)

    torch_names = {'first': 'layers.0', 'block_{i}': 'layers.{i+1}'}


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with value residuals (arXiv:2410.17897): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def trunk(self) -> nn.Module:
        if self.depth < 1:
            raise ValueError(f'depth={self.depth} must be at least 1: its blocks take the values of the first')
        block = partial(ValueResidualBlock, self.heads, self.dim_head, self.mlp_dim, **self.precision)
        norm = partial(LayerNorm, **self.precision)
        return ValueResidualTransformer(self.depth - 1, block, norm, scan=self.scan, remat=self.remat)


CARD = ModelCard(
    SimpleViT,
    title='Value Residual Learning',
    arxiv='2410.17897',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
