"""MaxViT: Multi-Axis Vision Transformer, arXiv:2204.01697.

vit-pytorch's `max_vit`: each block is an inverted bottleneck of convolutions, then attention inside
windows, then attention inside grids of positions far apart, so that two cheap attentions reach every
position. It differs from ViT in all of that, in positions (a learned bias of the way between two
positions) and in being averaged at the end.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_divisible, check_images
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import multiply, to_float32
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, LayerNorm, PointwiseConv, gelu, silu
from vit_flax.blocks.transformer import FeedForward
from vit_flax.blocks.windows import RelativePositionBias, check_windows, from_grids, from_windows, to_grids, to_windows
from vit_flax.card import ModelCard


class SqueezeExcitation(Module):
    """Squeeze-and-excitation, `[b h w d] -> [b h w d]`."""

    shrinkage_rate: float = 0.25

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        gate = Dense(int(dim * self.shrinkage_rate), use_bias=False, **self.precision, name='squeeze')(
            x.mean(axis=(1, 2))
        )
        gate = Dense(dim, use_bias=False, **self.precision, name='excite')(silu(gate))
        return multiply(x, jax.nn.sigmoid(to_float32(gate))[:, None, None])

    torch_names = {'squeeze': 'gate.1', 'excite': 'gate.3'}


class MBConv(Module):
    """Inverted bottleneck: 1x1, depthwise 3x3, squeeze-excitation, 1x1, `[b h w c] -> [b h' w' features]`."""

    features: int
    stride: int = 1
    expansion_rate: float = 4
    shrinkage_rate: float = 0.25

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        hidden = int(self.expansion_rate * self.features)
        x = PointwiseConv(hidden, **self.precision, name='expand')(x)
        x = gelu(BatchNorm(**self.precision, name='expand_norm')(x, train))
        x = Conv(hidden, (3, 3), strides=self.stride, padding=1, groups=hidden, **self.precision, name='depthwise')(x)
        x = gelu(BatchNorm(**self.precision, name='depthwise_norm')(x, train))
        x = SqueezeExcitation(self.shrinkage_rate, **self.precision, name='excitation')(x)
        x = PointwiseConv(self.features, **self.precision, name='contract')(x)
        return BatchNorm(**self.precision, name='norm')(x, train)

    torch_names = {
        'expand': '0',
        'expand_norm': '1',
        'depthwise': '3',
        'depthwise_norm': '4',
        'excitation': '6',
        'contract': '7',
        'norm': '8',
    }


class Attention(Module):
    """Self-attention inside a window with a bias of relative positions, `[b n d] -> [b n d]`."""

    window_size: int
    dim_head: int = 32
    dropout: float = 0.0

    def bias(self, heads: int) -> Module:
        """What gives the bias of each head's scores."""
        return RelativePositionBias(self.window_size, heads, **self.precision, name='rel_pos_bias')

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        check_divisible('dim', dim, 'dim_head', self.dim_head)
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * dim, use_bias=False, **self.precision, name='to_qkv')(x)
        heads = dim // self.dim_head
        q, k, v = split_qkv(qkv, heads)
        bias = self.bias(heads)()
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, bias=bias, dropout=self.dropout, train=train)
        x = Dense(dim, use_bias=False, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ConvBlock(Module):
    """What a block of MaxViT begins with: the bottleneck, with a residual unless it halves the map.

    Attributes:
      mbconv_dropout: rate at which the bottleneck is left out for an image.
    """

    dim: int
    first: bool
    window_size: int
    dim_head: int
    expansion_rate: float
    shrinkage_rate: float
    dropout: float
    mbconv_dropout: float = 0.0

    def convolve(self, x: Array, train: bool, keep: Array | None) -> Array:
        """`[b h w c] -> [b h' w' dim]`; keep: bool `[b]`."""
        mbconv = partial(
            MBConv,
            self.dim,
            expansion_rate=self.expansion_rate,
            shrinkage_rate=self.shrinkage_rate,
            **self.precision,
        )
        if self.first:
            return mbconv(stride=2, name='shrinking_conv')(x, train)
        y = mbconv(name='conv')(x, train)
        if keep is not None:
            y = y * (keep / (1 - self.mbconv_dropout)).astype(y.dtype)[:, None, None, None]
        return x + y

    torch_names = {'shrinking_conv': '0', 'conv': '0.fn'}


class MaxViTBlock(ConvBlock):
    """Convolutions, attention inside windows, attention inside grids, `[b h w c] -> [b h' w' dim]`."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False, keep: Array | None = None) -> Array:
        attention = partial(Attention, self.window_size, self.dim_head, self.dropout, **self.precision)
        feedforward = partial(FeedForward, 4 * self.dim, self.dropout, **self.precision)
        x = self.convolve(x, train, keep)
        windows = check_windows(x, self.window_size)
        for kind, take, give in (('block', to_windows, from_windows), ('grid', to_grids, from_grids)):
            x = take(x, self.window_size)
            x = x + attention(name=f'{kind}_attention')(x, train)
            x = x + feedforward(name=f'{kind}_feedforward')(x, train)
            x = give(x, self.window_size, windows)
        return self.tap('block', x)

    torch_names = {
        **ConvBlock.torch_names,
        'block_attention': '2.fn',
        'block_feedforward': '3.fn',
        'grid_attention': '6.fn',
        'grid_feedforward': '7.fn',
    }


def draw_convs(rng: Array, batch: int, rate: float, blocks: int) -> Array:
    """Which bottlenecks run for which images, bool `[blocks b]`."""
    return jax.random.uniform(rng, (blocks, batch)) >= rate


class MaxViT(Backbone, kw_only=True):
    """Multi-axis Vision Transformer (arXiv:2204.01697): images `[b h w c]` to logits `[b num_classes]`.

    The stem halves height and width, so does each stage, and windows must tile each stage's map:
    224 x 224 suits four stages with windows of 7.

    Attributes:
      num_classes: width of the logits.
      dim: width of the first stage; each further one is twice as wide.
      depth: number of blocks of each stage.
      dim_head: width of one head; must divide `dim`.
      dim_conv_stem: width of the stem; None is `dim`.
      window_size: height and width of a window and of a grid.
      mbconv_expansion_rate: hidden width of a bottleneck over its output.
      mbconv_shrinkage_rate: width inside its squeeze-excitation over the hidden width.
      dropout: rate after each projection of the transformer parts and on the attention maps.
      channels: of the images.
      mbconv_dropout: rate at which a bottleneck with a residual is left out for an image.

    Raises:
      ValueError: windows do not tile a stage's map, heads do not divide the width, depth is no sequence, images of
        another layout.
    """

    num_classes: int
    dim: int
    depth: Sequence[int]
    dim_head: int = 32
    dim_conv_stem: int | None = None
    window_size: int = 7
    mbconv_expansion_rate: float = 4
    mbconv_shrinkage_rate: float = 0.25
    dropout: float = 0.1
    channels: int = 3
    # upstream: bottlenecks have a dropout of whole branches which the model never passes a rate to, so that it is
    # always off; `mbconv_dropout` is that rate.
    mbconv_dropout: float = 0.0

    def setup(self) -> None:
        stem = self.dim if self.dim_conv_stem is None else self.dim_conv_stem
        self.conv_stem = [
            Conv(stem, (3, 3), strides=2, padding=1, **self.precision),
            Conv(stem, (3, 3), padding=1, **self.precision),
        ]
        self.block = [
            self.make_block(2**stage * self.dim, first=index == 0)
            for stage, blocks in enumerate(self.depth)
            for index in range(blocks)
        ]
        self.head_norm = LayerNorm(**self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def make_block(self, dim: int, first: bool) -> Module:
        """A block; the first of a stage halves the map."""
        return MaxViTBlock(**self.block_settings(dim, first))

    def block_settings(self, dim: int, first: bool) -> dict:
        """Arguments of `ConvBlock`."""
        return dict(
            dim=dim,
            first=first,
            window_size=self.window_size,
            dim_head=self.dim_head,
            expansion_rate=self.mbconv_expansion_rate,
            shrinkage_rate=self.mbconv_shrinkage_rate,
            dropout=self.dropout,
            mbconv_dropout=self.mbconv_dropout,
            **self.precision,
        )

    def embed(self, images: Array, train: bool = False) -> Array:
        """The stem, `[b h w c] -> [b h/2 w/2 dim_conv_stem]`."""
        check_images(images, self.channels)
        x = images
        for conv in self.conv_stem:
            x = conv(x)
        return self.tap('embedding', x)

    def encode(self, x: Array, train: bool = False, keep_convs: Array | None = None) -> Array:
        """All blocks, `[b h w c] -> [b h' w' d]`."""
        if keep_convs is None and train and self.mbconv_dropout > 0:
            keep_convs = draw_convs(self.make_rng('drop_path'), x.shape[0], self.mbconv_dropout, len(self.block))
        for index, block in enumerate(self.block):
            x = block(x, train, None if keep_convs is None else keep_convs[index])
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.mlp_head(self.head_norm(self.tap('to_latent', x).mean(axis=(1, 2))))

    def __call__(self, images: Array, train: bool = False, keep_convs: Array | None = None) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout, and BatchNorm on the batch's statistics.
          keep_convs: bool `[blocks b]`, which bottlenecks run for which image, in place of `draw_convs` from the rng
            `drop_path`; the first of a stage always runs.
        """
        x = self.encode(self.embed(images, train), train, keep_convs)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, (4, *[2] * (len(self.depth) - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """The smallest input that fits, for tracing."""
        side = self.window_size * 2 ** (len(self.depth) + 1)
        return jax.ShapeDtypeStruct((1, side, side, self.channels), jnp.float32)

    torch_names = {
        'conv_stem_{i}': 'conv_stem.{i}',
        'block_{i}': 'layers.{i}',
        'head_norm': 'mlp_head.1',
        'mlp_head': 'mlp_head.2',
    }


def published_size(dim: int, dim_conv_stem: int, depth: tuple[int, ...]) -> dict:
    """Keyword arguments of the paper's sizes; without dropout, which it does not have in these places."""
    return dict(num_classes=1000, dim=dim, dim_conv_stem=dim_conv_stem, depth=depth, dropout=0.0)


CARD = ModelCard(
    MaxViT,
    title='MaxViT: Multi-Axis Vision Transformer',
    arxiv='2204.01697',
    takes='image [b h w c]',
    paper_size=published_size(96, 64, (2, 2, 5, 2)),
    presets={
        'max_vit_tiny': published_size(64, 64, (2, 2, 5, 2)),
        'max_vit_small': published_size(96, 64, (2, 2, 5, 2)),
        'max_vit_base': published_size(96, 64, (2, 6, 14, 2)),
        'max_vit_large': published_size(128, 128, (2, 6, 14, 2)),
    },
)
