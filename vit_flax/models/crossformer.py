"""CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention, arXiv:2108.00154.

vit-pytorch's `crossformer`: each stage embeds patches of several sizes side by side, and its blocks
attend first within local windows, then within dilated ones. A small network turns the offset from one position to
another into a bias of their attention. It differs from ViT in all of that and in being averaged at
the end.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images
from vit_flax.blocks.conv import ChannelLayerNorm
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import take_rows
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, PointwiseConv, gelu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.windows import check_windows, from_grids, from_windows, relative_positions, to_grids, to_windows
from vit_flax.card import ModelCard

DIM_HEAD = 32
STAGES = 4


class CrossScaleEmbedding(Module):
    """Convolutions of several sizes with one stride, side by side, `[b h w c] -> [b h' w' features]`.

    The smallest makes half of the features, the next a quarter, and so on; the largest the rest.
    """

    features: int
    kernel_sizes: Sequence[int]
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernels = sorted(self.kernel_sizes)
        widths = [self.features // 2**i for i in range(1, len(kernels))]
        widths.append(self.features - sum(widths))
        maps = [
            Conv(
                width,
                (kernel, kernel),
                strides=self.stride,
                padding=(kernel - self.stride) // 2,
                **self.precision,
                name=f'conv_{i}',
            )(x)
            for i, (kernel, width) in enumerate(zip(kernels, widths, strict=True))
        ]
        if len({part.shape[:3] for part in maps}) > 1:
            raise ValueError(
                f'cross_embed_kernel_sizes={tuple(kernels)} at cross_embed_strides={self.stride} give maps of '
                'different sizes: all must be even or all odd, as the stride is'
            )
        return jnp.concatenate(maps, axis=-1)

    torch_names = {'conv_{i}': 'convs.{i}'}


class DynamicPositionBias(Module):
    """Dynamic position bias: a network of the relative offsets in a window, `[n m]`, the same for all heads."""

    hidden_dim: int
    window_size: int
    paper_bias_index: bool = False

    @nn.compact
    def __call__(self) -> Array:
        size = self.window_size
        ways = np.mgrid[-size : size + 1, -size : size + 1].reshape(2, -1).T
        x = jnp.asarray(ways, self.param_dtype)
        for i in range(3):
            x = Dense(self.hidden_dim, **self.precision, name=f'dense_{i}')(x)
            x = jax.nn.relu(LayerNorm(**self.precision, name=f'norm_{i}')(x))
        table = Dense(1, **self.precision, name='to_bias')(x)[:, 0]
        down, right = relative_positions(size)
        # upstream: the table has 2 * window_size + 1 columns and is read as if it had two less, so that a way gets the
        # bias of another one; `paper_bias_index=True` reads it as it is.
        if self.paper_bias_index:
            return take_rows(table, (down + size) * (2 * size + 1) + right + size)
        return take_rows(table, (down + size - 1) * (2 * size - 1) + right + size - 1)

    torch_names = {
        'dense_0': '0',
        'norm_0': '1',
        'dense_1': '3',
        'norm_1': '4',
        'dense_2': '6',
        'norm_2': '7',
        'to_bias': '9',
    }


class Attention(Module):
    """Self-attention within local or dilated windows, `[b h w d] -> [b h w d]`."""

    window_size: int
    far: bool
    dropout: float = 0.0
    paper_bias_index: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        # upstream: heads are always 32 wide, and there are as many as fit into the width.
        dim, size, heads = x.shape[-1], self.window_size, x.shape[-1] // DIM_HEAD
        if heads < 1:
            raise ValueError(f'dim={dim} must be at least {DIM_HEAD}, the width of one head')
        take, give = (to_grids, from_grids) if self.far else (to_windows, from_windows)
        name = 'global_window_size' if self.far else 'local_window_size'
        windows = check_windows(x, size, name)
        x = take(ChannelLayerNorm(**self.precision, name='norm')(x), size)
        qkv = PointwiseConv(3 * heads * DIM_HEAD, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, heads)
        bias = DynamicPositionBias(dim // 4, size, self.paper_bias_index, **self.precision, name='dpb')()
        x = attend(self, q, k, v, scale=DIM_HEAD**-0.5, bias=bias, dropout=self.dropout, train=train)
        x = PointwiseConv(dim, **self.precision, name='to_out')(merge_heads(x))
        return give(x, size, windows)


class FeedForward(Module):
    """LayerNorm, 1x1 convolution, GELU, Dropout, 1x1 convolution, `[b h w d] -> [b h w d]`."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        x = gelu(PointwiseConv(4 * dim, **self.precision, name='expand')(x))
        # upstream: there is no dropout behind the second projection, nor behind that of the attention.
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        return PointwiseConv(dim, **self.precision, name='contract')(x)

    torch_names = {'norm': '0', 'expand': '1', 'contract': '4'}


class CrossFormerBlock(Module):
    """Short-distance and long-distance attention, each with a feed-forward network."""

    local_window_size: int
    global_window_size: int
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    paper_bias_index: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        for kind, size in (('short', self.local_window_size), ('long', self.global_window_size)):
            x = x + Attention(
                size,
                kind == 'long',
                self.attn_dropout,
                self.paper_bias_index,
                **self.precision,
                name=f'{kind}_attention',
            )(x, train)
            x = x + FeedForward(self.ff_dropout, **self.precision, name=f'{kind}_feedforward')(x, train)
        return self.tap('block', x)

    torch_names = {
        'short_attention': '0',
        'short_feedforward': '1',
        'long_attention': '2',
        'long_feedforward': '3',
    }


class CrossFormer(Backbone, kw_only=True):
    """CrossFormer (arXiv:2108.00154): images `[b h w c]` to logits `[b num_classes]`.

    Everything but the classes, channels and rates is of each of the four stages, or one value for all.

    Attributes:
      dim: width of a token.
      depth: number of blocks, of two attentions each.
      global_window_size: side of the dilated windows of long-distance attention; must divide the map.
      local_window_size: height and width of a window; must divide the stage's map.
      cross_embed_kernel_sizes: of the convolutions that embed a stage's patches.
      cross_embed_strides: their step.
      num_classes: width of the logits.
      attn_dropout: rate on the attention maps.
      ff_dropout: rate inside the feed-forward networks.
      channels: of the images.
      paper_bias_index: index the bias by the relative offset.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: windows do not tile a stage's map, kernels that give maps of different sizes, a width below 32, a
        setting for another number of stages, images of another layout.
    """

    dim: int | Sequence[int] = (64, 128, 256, 512)
    depth: int | Sequence[int] = (2, 2, 8, 2)
    global_window_size: int | Sequence[int] = (8, 4, 2, 1)
    local_window_size: int | Sequence[int] = 7
    cross_embed_kernel_sizes: Sequence[Sequence[int]] = ((4, 8, 16, 32), (2, 4), (2, 4), (2, 4))
    cross_embed_strides: int | Sequence[int] = (4, 2, 2, 2)
    num_classes: int = 1000
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    channels: int = 3
    paper_bias_index: bool = False
    scan: bool = False
    remat: Remat = False

    head = ('to_logits',)

    def setup(self) -> None:
        names = ('dim', 'depth', 'global_window_size', 'local_window_size', 'cross_embed_strides')
        dims, depths, far, near, strides = (per_stage(name, getattr(self, name), STAGES) for name in names)
        kernels = per_stage('cross_embed_kernel_sizes', self.cross_embed_kernel_sizes, STAGES)
        self.embedding = [
            CrossScaleEmbedding(dim, kernel_sizes, stride, **self.precision)
            for dim, kernel_sizes, stride in zip(dims, kernels, strides, strict=True)
        ]
        self.transformer = [
            Transformer(
                depths[stage],
                partial(
                    CrossFormerBlock,
                    near[stage],
                    far[stage],
                    self.attn_dropout,
                    self.ff_dropout,
                    self.paper_bias_index,
                    **self.precision,
                ),
                scan=self.scan,
                remat=self.remat,
            )
            for stage in range(STAGES)
        ]
        self.to_logits = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """The images; each stage embeds its own input."""
        check_images(images, self.channels)
        return images

    def encode(self, images: Array, train: bool = False) -> Array:
        """Images to the last stage's feature map, `[b h w c] -> [b h' w' d]`."""
        x = images
        for embedding, transformer in zip(self.embedding, self.transformer, strict=True):
            x = self.tap('embedding', embedding(x))
            x = transformer(x, train=train)
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.to_logits(self.tap('to_latent', x).mean(axis=(1, 2)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, per_stage('cross_embed_strides', self.cross_embed_strides, STAGES))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits the default windows, for tracing."""
        return jax.ShapeDtypeStruct((1, 224, 224, self.channels), jnp.float32)

    torch_names = {'embedding_{i}': 'layers.{i}.0', 'transformer_{i}': 'layers.{i}.1', 'to_logits': 'to_logits.1'}


def published_size(dim: tuple[int, ...], depth: tuple[int, ...]) -> dict:
    """Keyword arguments of the paper's sizes."""
    return dict(num_classes=1000, dim=dim, depth=depth, global_window_size=(8, 4, 2, 1), local_window_size=7)


CARD = ModelCard(
    CrossFormer,
    title='CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention',
    arxiv='2108.00154',
    takes='image [b h w c]',
    paper_size=published_size((64, 128, 256, 512), (2, 2, 8, 2)),
)
