"""LocalViT: Bringing Locality to Vision Transformers, arXiv:2104.05707.

vit-pytorch's `local_vit`: a ViT whose feed-forward networks hold a depthwise convolution, so that
neighbouring patches speak. The class token bypasses them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import ProjectedAttention
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Conv, LayerNorm, PointwiseConv, hard_swish
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


class LocalFeedForward(Module):
    """LayerNorm, 1x1, depthwise 3x3 and two 1x1 convolutions with Hardswish, `[b h w d] -> [b h w d]`."""

    hidden_dim: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, hidden = x.shape[-1], self.hidden_dim
        # upstream: the LayerNorm stands behind the rearrangement to [b c h w] and so normalises over the width,
        # which fails unless there are as many columns as channels; here it normalises the channels.
        x = LayerNorm(**self.precision, name='norm')(x)
        x = hard_swish(PointwiseConv(hidden, **self.precision, name='expand')(x))
        x = Conv(hidden, (3, 3), padding=1, groups=hidden, **self.precision, name='depthwise')(x)
        # upstream: the depthwise convolution ends in a 1x1 convolution of the hidden channels, which the paper does not
        # have: it doubles the parameters of the network.
        x = hard_swish(PointwiseConv(hidden, **self.precision, name='pointwise')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = PointwiseConv(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {
        'norm': 'net.0',
        'expand': 'net.1',
        'depthwise': 'net.3.net.0',
        'pointwise': 'net.3.net.1',
        'contract': 'net.6',
    }


class LocalBlock(Module):
    """x + attention(x), then patches + feedforward(patches); the class token skips the second."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, rows: int, train: bool = False) -> Array:
        """Args: x `[b 1+n d]`; rows: of the grid of patches."""
        x = x + self.attention(name='attention')(x, train=train)
        cls, patches = x[:, :1], x[:, 1:]
        grid = rearrange(patches, 'b (h w) d -> b h w d', h=rows)
        grid = self.feedforward(name='feedforward')(grid, train=train)
        x = jnp.concatenate([cls, patches + rearrange(grid, 'b h w d -> b (h w) d')], axis=1)
        return self.tap('block', x)

    torch_names = {'attention': '0.fn', 'feedforward': '1.fn.fn'}


class LocalViT(ViTBase, kw_only=True):
    """ViT with convolutions in its feed-forward networks (arXiv:2104.05707): `[b h w c]` to `[b num_classes]`.

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

    norm_in_head = True
    can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(ProjectedAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        return partial(LocalFeedForward, self.mlp_dim, self.dropout, **self.precision)

    def block(self) -> Callable[..., nn.Module]:
        return partial(LocalBlock, self.attention(), self.feedforward())

    def encode(self, tokens: Array, train: bool = False, rows: int | None = None) -> Array:
        """The transformer, `[b 1+n d] -> [b 1+n d]`; `rows` of the grid of patches, those of `image_size` if None."""
        return self.transformer(tokens, rows or self.grid.shape[0], train=train)

    def __call__(self, images: Array, train: bool = False) -> Array:
        tokens = self.embed(images, train)
        tokens = self.encode(tokens, train, self.grid.shape_of(images)[0])
        # upstream: only the class token is classified, so the last block's feed-forward network, which it
        # bypasses, is never trained.
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = BATCH_AXES


CARD = ModelCard(
    LocalViT,
    title='LocalViT: Bringing Locality to Vision Transformers',
    arxiv='2104.05707',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
