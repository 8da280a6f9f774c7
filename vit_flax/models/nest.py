"""Nested Hierarchical Transformer, arXiv:2105.12723.

vit-pytorch's `nest`: the image is cut into blocks, a transformer works inside each, and between two
hierarchies a convolution with max pooling joins every four blocks into one. It differs from ViT in
that attention never leaves a block, and in being averaged at the end.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair, patch_grid, warn_of_other_grid
from vit_flax.blocks.conv import ChannelLayerNorm, ConvFeedForward
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.kernels.pooling import max_pool
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import patchify
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import Conv, Dense, PointwiseConv
from vit_flax.blocks.transformer import Block, Remat, Transformer
from vit_flax.blocks.windows import from_windows, to_windows
from vit_flax.card import ModelCard


class PatchEmbedding(Module):
    """LayerNorm, Linear, LayerNorm on each patch, `[b H W c] -> [b h w d]`; 1x1 convolutions in PyTorch."""

    patch_size: int | Sequence[int]
    dim: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = ChannelLayerNorm(**self.precision, name='patch_norm')(patchify(images, self.patch_size))
        x = PointwiseConv(self.dim, **self.precision, name='projection')(x)
        return ChannelLayerNorm(**self.precision, name='norm')(x)

    torch_names = {'patch_norm': '1', 'projection': '2', 'norm': '3'}


class Attention(Module):
    """Self-attention inside blocks, `[b n d] -> [b n d]`; the heads share the width."""

    heads: int = 8
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        dim_head = dim // self.heads
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        qkv = PointwiseConv(3 * dim_head * self.heads, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        x = attend(self, q, k, v, scale=dim_head**-0.5, dropout=self.dropout, train=train)
        x = PointwiseConv(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class Hierarchy(Module):
    """Positions and a transformer in each of `blocks` x `blocks` blocks, `[b h w d] -> [b h w d]`."""

    blocks: int
    size: tuple[int, int]
    depth: int
    heads: int
    mlp_mult: int
    dropout: float = 0.0
    paper_positions: bool = False
    scan: bool = False
    remat: Remat = False

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_emb': PositionTable(self.size, channels=int(self.paper_positions))}

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        (_, height, width, dim), grid = x.shape, (self.blocks, self.blocks)
        if height % self.blocks or width % self.blocks:
            raise ValueError(f'the feature map of {height} x {width} cannot be cut into blocks of {grid}')
        size = height // self.blocks, width // self.blocks
        n, length = math.prod(size), math.prod(self.size)
        warn_of_other_grid(size, self.size, f'image_size, in each of {self.blocks} x {self.blocks} blocks,')
        if n > length:
            raise ValueError(f'blocks of {n} positions are larger than those of image_size, which have {length}')
        x = to_windows(x, size)
        if self.paper_positions:
            shape = (self.blocks**2, length, dim)
            positions = self.param('pos_emb', normal(0.02), shape, self.param_dtype)[:, :n]
            x = rearrange(x, '(b blocks) n d -> b blocks n d', blocks=self.blocks**2)
            x, positions = self.promote(x, positions)
            x = rearrange(add(x, positions), 'b blocks n d -> (b blocks) n d')
        else:
            # upstream: a position is one number for all channels, which every LayerNorm takes away again: only the
            # convolution to the next hierarchy sees it, and in the last hierarchy nothing does.
            # `paper_positions=True` has a vector for each position of each block.
            x, positions = self.promote(x, self.param('pos_emb', normal(1.0), (length,), self.param_dtype))
            x = add(x, positions[:n, None])
        x = Transformer(
            self.depth,
            partial(
                Block,
                attention=partial(Attention, self.heads, self.dropout, **self.precision),
                feedforward=partial(ConvFeedForward, self.mlp_mult, self.dropout, **self.precision),
            ),
            scan=self.scan,
            remat=self.remat,
            name='transformer',
        )(x, train=train)
        return from_windows(x, size, grid)

    torch_names = {'transformer/block_{i}': 'layers.{i}'}


class Aggregate(Module):
    """Convolution, LayerNorm, max pooling: four blocks become one, `[b h w d] -> [b h/2 w/2 features]`."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.features, (3, 3), padding=1, **self.precision, name='conv')(x)
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        return max_pool(x, (3, 3), (2, 2), (1, 1))

    torch_names = {'conv': '0', 'norm': '1'}


class NesT(Backbone, kw_only=True):
    """Nested Transformer (arXiv:2105.12723): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first positions of each block, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits.
      dim: width of a token in the first hierarchy, doubled in each further one.
      heads: attention heads in the first hierarchy, doubled likewise; they share the width.
      num_hierarchies: how many; the first cuts the image into `2 ** (num_hierarchies - 1)` blocks a side.
      block_repeats: depth of each hierarchy's transformer, or one number for all.
      mlp_mult: hidden width of the feed-forward networks over the hierarchy's.
      channels: of the images.
      dim_head: has no effect.
      dropout: rate after each projection and on the attention maps.
      paper_positions: a vector for each position of each block instead of a number for each position of a block.
      scan: compile one block for all layers of a hierarchy, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image, blocks do not tile the patches, images of another layout or larger.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    heads: int
    num_hierarchies: int
    block_repeats: int | Sequence[int]
    mlp_mult: int = 4
    channels: int = 3
    # upstream: dim_head is taken and never used, the heads share the width.
    dim_head: int = 64
    dropout: float = 0.0
    paper_positions: bool = False
    scan: bool = False
    remat: Remat = False

    def setup(self) -> None:
        rows, columns = patch_grid(self.image_size, self.patch_size)
        count = self.num_hierarchies
        blocks = 2 ** (count - 1)
        if rows % blocks or columns % blocks:
            raise ValueError(
                f'image_size={pair(self.image_size)} has {rows} x {columns} patches, which num_hierarchies={count} '
                f'cannot cut into {blocks} x {blocks} blocks'
            )
        depths = per_stage('block_repeats', self.block_repeats, count)
        self.to_patch_embedding = PatchEmbedding(self.patch_size, self.dim, **self.precision)
        self.hierarchy = [
            Hierarchy(
                blocks // 2**level,
                (rows // blocks, columns // blocks),
                depth,
                self.heads * 2**level,
                self.mlp_mult,
                self.dropout,
                self.paper_positions,
                self.scan,
                self.remat,
                **self.precision,
            )
            for level, depth in enumerate(depths)
        ]
        self.aggregate = [Aggregate(self.dim * 2**level, **self.precision) for level in range(1, count)]
        self.head_norm = ChannelLayerNorm(**self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to patches, `[b H W c] -> [b h w d]`."""
        check_images(images, self.channels)
        return self.tap('embedding', self.to_patch_embedding(images))

    def encode(self, x: Array, train: bool = False) -> Array:
        """All hierarchies, `[b h w d] -> [b h' w' d']`."""
        for level, hierarchy in enumerate(self.hierarchy):
            x = hierarchy(x, train)
            if level < len(self.aggregate):
                x = self.aggregate[level](x)
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.mlp_head(self.head_norm(self.tap('to_latent', x)).mean(axis=(1, 2)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        patches = tuple(length // side for length, side in zip(lengths, pair(self.patch_size), strict=True))
        return stage_grids(patches, (1, *[2] * (self.num_hierarchies - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.channels), jnp.float32)

    torch_names = {
        'hierarchy_{i}': 'layers.{i}.0',
        'aggregate_{i}': 'layers.{i}.1',
        'head_norm': 'mlp_head.0',
        'mlp_head': 'mlp_head.2',
    }


def published_size(dim: int, heads: int, block_repeats: tuple[int, int, int]) -> dict:
    """Keyword arguments of the paper's sizes."""
    return dict(
        image_size=224,
        patch_size=4,
        num_classes=1000,
        dim=dim,
        heads=heads,
        num_hierarchies=3,
        block_repeats=block_repeats,
    )


CARD = ModelCard(
    NesT,
    title='Nested Hierarchical Transformer: Towards Accurate, Data-Efficient and Interpretable Visual Understanding',
    arxiv='2105.12723',
    takes='image [b h w c]',
    paper_size=published_size(96, 3, (2, 2, 8)),
    presets={
        'vit_pytorch_nest_tiny': published_size(96, 3, (2, 2, 8)),
        'vit_pytorch_nest_small': published_size(96, 3, (2, 2, 20)),
        'vit_pytorch_nest_base': published_size(128, 4, (2, 2, 20)),
    },
)
