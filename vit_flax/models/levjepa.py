"""LeVJEPA, arXiv:2608.27395: the encoder of videos; the objective is `vit_flax.objectives.levjepa`.

vit-pytorch's `levjepa.VideoTransformer`: frames are cut into patches, a class token comes first, and
queries and keys are turned by the position of their token in time, height and width. Frames attend to those
before them, the class token attends to all tokens and none attend to it. In training most patches may be left out;
positions follow the token, so that what stays needs no other change.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.dropping import draw_patches
from vit_flax.blocks.grids import Grid, video_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding, patchify
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.rotary import rotate
from vit_flax.blocks.torch_like import Dense, LayerNorm, MeanSquareNorm
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard


class ChannelsFirstPatches(PatchEmbedding):
    """LayerNorm without bias, Linear, LayerNorm without bias on patches whose channels are outermost."""

    norm: Callable[..., nn.Module] = partial(LayerNorm, use_bias=False)

    def __call__(self, images: Array) -> Array:
        patches = patchify(images, self.patch_size)
        return self.embed(rearrange(patches, '... (p c) -> ... (c p)', c=images.shape[-1]))


class PlacedAttention(Module):
    """Attention of tokens that each have a position of their own, `[b n d] -> [b n d]`; no bias anywhere."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, angles: Array, mask: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; angles `[b 1 n a]`, see `rotate`; mask bool, broadcast to `[b e n n]`."""
        dim = x.shape[-1]
        x = MeanSquareNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        # upstream: `dropout` never reaches the attention maps, only what the attention puts out.
        x = merge_heads(attend(self, rotate(q, angles), rotate(k, angles), v, scale=self.dim_head**-0.5, mask=mask))
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class PositionedTransformerBase(Backbone, kw_only=True):
    """An encoder of grids whose tokens carry their positions; a subclass says which axes are causal.

    Attributes:
      dim: width of a token.
      depth: number of blocks.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      channels: of the input.
      dim_head: width of one head.
      dropout: rate after each projection.
      emb_dropout: rate on the embedded patches.
      rotary_max_freq: twice the highest frequency of the positions, in half turns over the whole axis.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the input, an input of another layout, heads too narrow to turn.
    """

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    channels: int = 3
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0
    rotary_max_freq: float = 10.0
    scan: bool = False
    remat: Remat = False

    head = ()
    taps_latent = False

    @property
    def num_prefix_tokens(self) -> int:
        return 1

    @property
    def layout(self) -> str:
        return self.grid.layout

    @property
    def causal_axes(self) -> tuple[int, ...]:
        """Axes of the grid with causal attention."""
        raise NotImplementedError

    def setup(self) -> None:
        # upstream: the frequencies are a buffer in float32, which the state dict holds; here they are a constant among
        # the model's variables.
        self.scales = self.variable('constants', 'rotary_scales', self.frequencies)
        self.to_patch_embedding = ChannelsFirstPatches(self.grid.patch, self.dim, **self.precision)
        self.cls_token = self.param('cls_token', normal(1.0), (self.dim,), self.param_dtype)
        self.embedding_dropout = nn.Dropout(self.emb_dropout)
        attention = partial(PlacedAttention, self.heads, self.dim_head, self.dropout, **self.precision)
        norm = MeanSquareNorm
        feedforward = partial(FeedForward, self.mlp_dim, dropout=self.dropout, norm=norm, **self.precision)
        block = partial(Block, attention, feedforward)
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.norm = MeanSquareNorm(**self.precision)

    def frequencies(self) -> Array:
        """Turns of pairs of channels along each axis, the same for all axes, `[f]`."""
        axes = len(self.grid.shape)
        count = self.dim_head // (2 * axes)
        if count < 1:
            raise ValueError(
                f'dim_head={self.dim_head} must be at least {2 * axes}: each of {axes} axes turns a pair of channels'
            )
        return jnp.asarray(np.linspace(1.0, self.rotary_max_freq / 2, count), jnp.float32)

    def angles(self, positions: Array, grid: Sequence[int]) -> Array:
        """Positions on a grid to angles, int `[b n axes] -> [b n axes*f]`; no position (-1) turns nothing."""
        scales = self.scales.value
        wide = scales.astype(jnp.promote_types(scales.dtype, jnp.float32))
        along = jnp.where(positions < 0, 0.0, 2 * (positions / np.asarray(grid, wide.dtype)) - 1)
        # upstream: positions are divided by the number of patches, not by one less: they run from -1 to short of 1, and
        # the class token stands at 0, the middle of the grid.
        turns = along.astype(wide.dtype)[..., None] * wide * np.pi
        return turns.reshape(*positions.shape[:-1], positions.shape[-1] * wide.shape[-1])

    def mask(self, positions: Array) -> Array | None:
        """Attention mask, bool `[b 1 n n]`; None without causal axes."""
        if not self.causal_axes:
            return None
        query, key = positions[:, :, None], positions[:, None]
        allowed = (query == -1) | ((key >= 0) & (query >= key))
        return allowed[..., list(self.causal_axes)].all(axis=-1)[:, None]

    def positions(self, grid: Sequence[int], batch: int) -> Array:
        """Of the class token and all patches, int `[b 1+n axes]`; the class token has none, -1."""
        patches = np.indices(grid).reshape(len(grid), -1).T
        positions = np.pad(patches, ((1, 0), (0, 0)), constant_values=-1)
        return jnp.broadcast_to(jnp.asarray(positions), (batch, *positions.shape))

    def embed(
        self,
        x: Array,
        train: bool = False,
        drop_ratio: float | None = None,
        kept_patches: Array | None = None,
    ) -> tuple[Array, Array]:
        """Inputs to tokens, class token first, and their positions, `[b *grid c] -> [b 1+n d], [b 1+n axes]`."""
        self.grid.check(x)
        if drop_ratio is not None and not 0 <= drop_ratio < 1:
            raise ValueError(f'drop_ratio={drop_ratio} must be at least 0 and below 1')
        patches = self.to_patch_embedding(x)
        grid = patches.shape[1:-1]
        tokens = patches.reshape(x.shape[0], math.prod(patches.shape[1:-1]), self.dim)
        tokens = self.embedding_dropout(tokens, deterministic=not train)
        cls_token, tokens = self.promote(self.cls_token, tokens)
        tokens = jnp.concatenate([repeat(cls_token, 'd -> b 1 d', b=x.shape[0]), tokens], axis=1)
        positions = self.positions(grid, x.shape[0])
        if kept_patches is None and train and drop_ratio:
            kept_patches = draw_patches(self.make_rng('mask'), x.shape[0], tokens.shape[1] - 1, drop_ratio)
        if kept_patches is not None:
            kept = jnp.pad(kept_patches + 1, ((0, 0), (1, 0)))[..., None]
            tokens, positions = (jnp.take_along_axis(array, kept, axis=1) for array in (tokens, positions))
        return self.tap('embedding', tokens), positions

    def encode(self, tokens: tuple[Array, Array], train: bool = False, grid: Sequence[int] | None = None) -> Array:
        """The transformer, `([b n d], [b n axes]) -> [b n d]`; `grid` of the patches, if not the model's."""
        x, positions = tokens
        angles = self.angles(positions, grid or self.grid.shape)[:, None]
        return self.norm(self.transformer(x, angles, self.mask(positions), train=train))

    def __call__(
        self,
        x: Array,
        train: bool = False,
        drop_ratio: float | None = None,
        kept_patches: Array | None = None,
    ) -> Array:
        """Inputs to encoded tokens, class token first, `[b *grid c] -> [b 1+n d]`.

        Args:
          x: what the model is built for.
          train: dropout, and leave patches out.
          drop_ratio: share of the patches to leave out in training, in [0, 1); None leaves none out.
          kept_patches: int `[b kept]`, which patches are read; drawn from the rng `mask` when training with a
            `drop_ratio` and left out here (see `vit_flax.blocks.dropping.draw_patches`).
        """
        return self.encode(self.embed(x, train, drop_ratio, kept_patches), train, self.grid.shape_of(x))

    torch_names = {'rotary_scales': 'rotary_emb.scales'}


class VideoTransformer(PositionedTransformerBase, kw_only=True):
    """LeVJEPA's encoder (arXiv:2608.27395): videos `[b t h w c]` to tokens `[b 1+n dim]`, class token first.

    Attributes:
      image_size: height and width of a frame in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the frame's.
      frames: of a video; another number of them, or frames of another size, may come too.
      block_causal: frames attend to no later frame.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    frames: int
    block_causal: bool = True

    @property
    def grid(self) -> Grid:
        return video_grid(self.image_size, self.patch_size, self.frames, 1, self.channels, 'patch_size')

    @property
    def causal_axes(self) -> tuple[int, ...]:
        return (0,) if self.block_causal else ()


def published_size() -> dict[str, Any]:
    """Keyword arguments of the example that vit-pytorch gives."""
    return dict(image_size=96, patch_size=16, frames=8, dim=256, depth=3, heads=8, mlp_dim=512)


CARD = ModelCard(
    VideoTransformer,
    title='LeVJEPA',
    arxiv='2608.27395',
    takes='video [b t h w c]',
    paper_size=published_size(),
)
