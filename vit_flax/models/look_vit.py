"""LookupViT: Compressing visual information to a limited number of tokens, arXiv:2407.12753.

vit-pytorch's `look_vit`: a few tokens do the work of a ViT and look things up, by cross attention, in
a fine grid of patches; the same attention map, turned round, then takes what they found back to the
patches, which only have a feed-forward network of their own. The few tokens start as a smaller copy
of the grid.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair, patch_grid
from vit_flax.blocks.grids import TokenGrid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import OffsetLayerNorm
from vit_flax.blocks.patches import patchify
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.positions import sincos_2d
from vit_flax.blocks.torch_like import Conv, Dense, gelu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard


def bilinear(old: int, new: int) -> np.ndarray:
    """The matrix `[new old]` that resizes one axis as torch's `interpolate(mode='bilinear')` does."""
    centres = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0)
    below = np.floor(centres).astype(int)
    matrix = np.zeros((new, old))
    for source, weight in ((below, 1 - (centres - below)), ((below + 1).clip(max=old - 1), centres - below)):
        np.add.at(matrix, (np.arange(new), source), weight)
    return matrix


class Attention(Module):
    """Tokens attend to themselves or to a context, `[b n d], [b m d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, context: Array | None = None, train: bool = False
    ) -> tuple[Array, tuple[Array, Array]]:
        """Returns also the queries `[b e n k]` and keys `[b e m k]`."""
        dim = x.shape[-1]
        project = partial(Dense, self.heads * self.dim_head, use_bias=False, **self.precision)
        x = OffsetLayerNorm(**self.precision, name='norm')(x)
        seen = x if context is None else OffsetLayerNorm(**self.precision, name='norm_context')(context)
        q, k, v = (
            split_heads(project(name=name)(t), self.heads) for name, t in (('to_q', x), ('to_k', seen), ('to_v', seen))
        )
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train), (q, k)

    torch_names = {'to_out': 'to_out.1'}


class ReverseAttention(Module):
    """Attention of what was attended to, back to those that attended: their keys and queries change places."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, context: Array, q: Array, k: Array, train: bool = False) -> Array:
        """Args: context `[b n d]`; q `[b e n k]` and k `[b e m k]` of the lookup. Returns `[b m d]`."""
        dim = context.shape[-1]
        context = OffsetLayerNorm(**self.precision, name='norm_context')(context)
        v = Dense(self.heads * self.dim_head, use_bias=False, **self.precision, name='to_v')(context)
        v = split_heads(v, self.heads)
        x = attend(self, k, q, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.1'}


class FeedForward(Module):
    """Norm, Linear, GELU, Dropout, Linear, Dropout, `[b n d] -> [b n d]`."""

    factor: float = 4
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = OffsetLayerNorm(**self.precision, name='norm')(x)
        x = gelu(Dense(int(dim * self.factor), **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = Dense(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'norm': '0', 'expand': '1', 'contract': '4'}


class LookBlock(Module):
    """Lookup, a ViT's block on the tokens, and the way back to the patches."""

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    lookup: Callable[..., nn.Module]
    reverse: Callable[..., nn.Module]
    patch_feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, streams: tuple[Array, Array], train: bool = False) -> tuple[Array, Array]:
        """Args: tokens `[b n d]` and patches `[b m d]`. Returns both anew."""
        tokens, patches = streams
        found, (q, k) = self.lookup(name='lookup')(tokens, patches, train=train)
        tokens = tokens + found
        tokens = tokens + self.attention(name='attention')(tokens, train=train)[0]
        tokens = tokens + self.feedforward(name='feedforward')(tokens, train=train)
        patches = patches + self.reverse(name='reverse')(tokens, q, k, train=train)
        patches = OffsetLayerNorm(**self.precision, name='patch_norm')(patches)
        patches = patches + self.patch_feedforward(name='patch_feedforward')(patches, train=train)
        return self.tap('block', tokens), self.tap('block', patches)

    torch_names = {
        'attention': '0',
        'feedforward': '1',
        'lookup': '2',
        'reverse': '3',
        'patch_norm': '4',
        'patch_feedforward': '5',
    }


class LookViT(Backbone, kw_only=True):
    """LookupViT (arXiv:2407.12753): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      dim: width of a token, a multiple of 4.
      image_size: height and width in pixels, or one number for both; images must be of this size.
      num_classes: width of the logits.
      depth: number of blocks.
      patch_size: height and width of the image that there is one token for.
      heads: attention heads of the tokens among themselves.
      mlp_factor: hidden width of the tokens' feed-forward networks over `dim`.
      dim_head: width of one head.
      highres_patch_size: height and width of a patch, smaller than `patch_size`.
      highres_mlp_factor: hidden width of the patches' feed-forward networks over `dim`.
      cross_attn_heads: attention heads of the lookup and of the way back.
      cross_attn_dim_head: width of one of them.
      patch_conv_kernel_size: patches on each side that enter the embedding of one; odd.
      dropout: rate after each projection and on the attention maps.
      channels: of the images.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: either patch size does not tile the image, the fine one is not the smaller, an even kernel,
        dim is not a multiple of 4, or images of another size or layout.
    """

    dim: int
    image_size: int | Sequence[int]
    num_classes: int
    depth: int = 3
    patch_size: int | Sequence[int] = 16
    heads: int = 8
    mlp_factor: float = 4
    dim_head: int = 64
    highres_patch_size: int | Sequence[int] = 12
    highres_mlp_factor: float = 4
    cross_attn_heads: int = 8
    cross_attn_dim_head: int = 64
    patch_conv_kernel_size: int = 7
    dropout: float = 0.1
    channels: int = 3
    scan: bool = False
    remat: Remat = False

    head = ('to_logits',)

    def setup(self) -> None:
        rows, columns = patch_grid(self.image_size, self.highres_patch_size, name='image_size for highres_patch_size')
        patch_grid(self.image_size, self.patch_size)
        if any(
            fine >= coarse
            for fine, coarse in zip(
                pair(self.highres_patch_size, 'highres_patch_size'), pair(self.patch_size, 'patch_size'), strict=True
            )
        ):
            raise ValueError(
                f'highres_patch_size={self.highres_patch_size} must be smaller than patch_size={self.patch_size}'
            )
        kernel = self.patch_conv_kernel_size
        if kernel % 2 == 0:
            raise ValueError(f'patch_conv_kernel_size={kernel} must be odd, to be centred on a patch')
        self.patch_conv = Conv(self.dim, (kernel, kernel), padding=kernel // 2, **self.precision)
        self.patch_norm = OffsetLayerNorm(**self.precision)
        # upstream: the model has a table of learned positions and never uses it; fixed sines and cosines are added.
        self.pos_embedding = self.param('pos_embedding', normal(1.0), (rows * columns, self.dim), self.param_dtype)

        across = (self.cross_attn_heads, self.cross_attn_dim_head, self.dropout)
        block = partial(
            LookBlock,
            attention=partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision),
            feedforward=partial(FeedForward, self.mlp_factor, self.dropout, **self.precision),
            lookup=partial(Attention, *across, **self.precision),
            reverse=partial(ReverseAttention, *across, **self.precision),
            patch_feedforward=partial(FeedForward, self.highres_mlp_factor, self.dropout, **self.precision),
            **self.precision,
        )
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.norm, self.highres_norm = OffsetLayerNorm(**self.precision), OffsetLayerNorm(**self.precision)
        self.to_logits = Dense(self.num_classes, use_bias=False, **self.precision)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to tokens and patches, `[b h w c] -> [b n d], [b m d]`."""
        check_images(images, self.channels)
        if images.shape[1:3] != pair(self.image_size, 'image_size'):
            raise ValueError(f'images of shape {images.shape} must be of image_size={pair(self.image_size)}')
        patches = self.patch_norm(self.patch_conv(patchify(images, self.highres_patch_size)))
        _, rows, columns, dim = patches.shape
        positions = rearrange(sincos_2d(rows, columns, dim), '(h w) d -> h w d', h=rows)
        patches = patches + positions.astype(patches.dtype)
        to_rows, to_columns = (
            bilinear(old, new).astype(patches.dtype)
            for old, new in zip((rows, columns), patch_grid(self.image_size, self.patch_size), strict=True)
        )
        tokens = jnp.einsum('p h, q w, b h w d -> b p q d', to_rows, to_columns, patches)
        tokens, patches = (rearrange(x, 'b h w d -> b (h w) d') for x in (tokens, patches))
        return self.tap('embedding', tokens), self.tap('embedding', patches)

    def encode(self, tokens: tuple[Array, Array], train: bool = False) -> tuple[Array, Array]:
        """The blocks and a norm, `([b n d], [b m d]) -> ([b n d], [b m d])`."""
        transformer: Callable = self.transformer
        low, high = transformer(tokens, train=train)
        return self.norm(low), self.highres_norm(high)

    def classify(self, tokens: tuple[Array, Array], train: bool = False) -> Array:
        """Logits of the average token plus the average patch, `([b n d], [b m d]) -> [b num_classes]`."""
        low, high = tokens
        return self.to_logits(self.tap('to_latent', low.mean(axis=1) + high.mean(axis=1)))

    def __call__(self, images: Array, train: bool = False) -> Any:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded tokens and patches without classes."""
        tokens = self.encode(self.embed(images, train), train)
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        sizes = pair(self.patch_size, 'patch_size'), pair(self.highres_patch_size, 'highres_patch_size')
        return tuple(TokenGrid((lengths[0] // p, lengths[1] // q)) for p, q in sizes)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embedding': PositionTable(patch_grid(self.image_size, self.highres_patch_size))}

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.channels), jnp.float32)

    torch_names = {'patch_conv': 'to_patches.1', 'patch_norm': 'to_patches.3', 'transformer': ''}


CARD = ModelCard(
    LookViT,
    title='LookupViT: Compressing visual information to a limited number of tokens',
    arxiv='2407.12753',
    takes='image [b h w c]',
    paper_size=dict(
        image_size=240,
        patch_size=24,
        highres_patch_size=16,
        num_classes=1000,
        dim=768,
        depth=12,
        heads=12,
        cross_attn_heads=12,
    ),
)
