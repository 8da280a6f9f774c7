"""Revisiting [CLS] and Patch Token Interaction in Vision Transformers, arXiv:2602.08626.

vit-pytorch's `simple_vit_with_specialized_cls`: SimpleViT with a class token that has norms of its
own everywhere, and projections to queries, keys and values of its own in the first third of the
blocks. The class token is what is classified.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm, gelu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class Specialized(Module):
    """One layer for the class token, another for the patches, `[b 1+n d] -> [b 1+n f]`."""

    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cls, patches = self.layer(name='cls')(x[:, :1]), self.layer(name='patches')(x[:, 1:])
        return jnp.concatenate([cls, patches], axis=1)

    torch_names = {'cls': 'fns.0', 'patches': 'fns.1'}


class Attention(Module):
    """Self-attention with norms for each kind of token, `[b 1+n d] -> [b 1+n d]`.

    Attributes:
      specialize_qkv: queries, keys and values of the class token have a projection of their own.
    """

    heads: int = 8
    dim_head: int = 64
    specialize_qkv: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = Specialized(partial(LayerNorm, **self.precision), name='norm')(x)
        project = partial(Dense, 3 * inner, use_bias=False, **self.precision)
        qkv = Specialized(project, name='to_qkv') if self.specialize_qkv else project(name='to_qkv')
        q, k, v = split_qkv(qkv(x), self.heads)
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5))
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(x)


class FeedForward(Module):
    """Norms for each kind of token, Linear, GELU, Linear, `[b 1+n d] -> [b 1+n d]`."""

    hidden_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        x = Specialized(partial(LayerNorm, **self.precision), name='norm')(x)
        x = gelu(Dense(self.hidden_dim, **self.precision, name='expand')(x))
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = {'expand': 'net.0', 'contract': 'net.2'}


class SpecializedBlock(Module):
    """Attention and a feed-forward network, `[b 1+n d] -> [b 1+n d]`; see `Attention`."""

    heads: int
    dim_head: int
    mlp_dim: int
    specialize_qkv: bool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = x + Attention(self.heads, self.dim_head, self.specialize_qkv, **self.precision, name='attention')(x)
        return self.tap('block', x + FeedForward(self.mlp_dim, **self.precision, name='feedforward')(x))

    torch_names = {'attention': '0', 'feedforward': '1'}


class SpecializedTransformer(Module):
    """Blocks with two projections, then blocks with one, and a norm, `[b 1+n d] -> [b 1+n d]`.

    Attributes:
      depths: of both.
      block: constructor of a block; takes `specialize_qkv`.
    """

    depths: tuple[int, int]
    block: Callable[..., nn.Module]
    scan: bool
    remat: Remat

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for name, depth in zip(('specialized', 'shared'), self.depths, strict=True):
            block = partial(self.block, specialize_qkv=name == 'specialized')
            x = Transformer(depth, block, scan=self.scan, remat=self.remat, name=name)(x, train=train)
        return Specialized(partial(LayerNorm, **self.precision), name='norm')(x)

    def torch_rows(self) -> dict[str, str]:
        return {
            'specialized/block_{i}': 'layers.{i}',
            'shared/block_{i}': f'layers.{{i+{self.depths[0]}}}',
        }


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with a specialised class token (arXiv:2602.08626): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      specialize_qkv_depth: blocks in which the class token has projections of its own; None is a
        third of them.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    specialize_qkv_depth: int | None = None
    scan: bool = False
    remat: Remat = False

    # it encodes a class token too
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def setup(self) -> None:
        super().setup()
        self.cls_token = self.param('cls_token', normal(0.01), (self.dim,), self.param_dtype)

    def trunk(self) -> nn.Module:
        specialized = self.depth // 3 if self.specialize_qkv_depth is None else self.specialize_qkv_depth
        specialized = min(max(specialized, 0), self.depth)
        block = partial(SpecializedBlock, self.heads, self.dim_head, self.mlp_dim, **self.precision)
        depths = specialized, self.depth - specialized
        return SpecializedTransformer(depths, block, self.scan, self.remat, **self.precision)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """Class token and patches through the transformer, `[b n d] -> [b 1+n d]`."""
        cls = repeat(self.cls_token, 'd -> b 1 d', b=tokens.shape[0])
        return self.transformer(jnp.concatenate(self.promote(cls, tokens), axis=1), train=train)

    def pool_tokens(self, tokens: Array, train: bool = False) -> Array:
        return tokens[:, 0]

    @property
    def num_prefix_tokens(self) -> int:
        return 1


CARD = ModelCard(
    SimpleViT,
    title='Revisiting [CLS] and Patch Token Interaction in Vision Transformers',
    arxiv='2602.08626',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
