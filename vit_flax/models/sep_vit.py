"""SepViT: Separable Vision Transformer, arXiv:2203.15380.

vit-pytorch's `sep_vit`: attention inside windows with one more token for each, which sums the window
up, and attention between these tokens, whose map then mixes whole windows. As a depthwise-separable
convolution, the first looks around inside, the second across. It differs from ViT in that, in
overlapping patches at each of its stages, and in a depthwise convolution in the place of positions.
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
from vit_flax.blocks.checks import check_images
from vit_flax.blocks.conv import PEG, ChannelLayerNorm, ConvFeedForward
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, PointwiseConv, gelu
from vit_flax.blocks.transformer import Block, Remat, Transformer
from vit_flax.blocks.weight_ops import Chain, Permute, UnitAxes
from vit_flax.blocks.windows import check_windows, from_windows, to_windows
from vit_flax.card import ModelCard


class SequenceConv(Dense):
    """Convolution of a sequence with a kernel of one position: a matrix product on the channels."""

    torch_names = {'kernel': ('weight', Chain((Permute((1, 0)), UnitAxes((2,)))))}


class WindowAttention(Module):
    """Attention between windows, whose values are all their positions: `[b e m k], [b e m n k] -> [b e m n k]`."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens: Array, positions: Array, train: bool = False) -> Array:
        """Args: tokens, one for each window; positions: of each window, m windows of n positions."""
        heads, width, n = tokens.shape[1], tokens.shape[-1], positions.shape[3]
        x = gelu(LayerNorm(**self.precision, name='norm')(tokens))
        qk = SequenceConv(2 * heads * width, **self.precision, name='to_qk')(merge_heads(x))
        q, k = jnp.split(rearrange(qk, 'b m (e k) -> b e m k', e=heads), 2, axis=-1)
        values = rearrange(positions, 'b e m n k -> b e m (n k)')
        x = attend(self, q, k, values, scale=width**-0.5, dropout=self.dropout, train=train)
        return rearrange(x, 'b e m (n k) -> b e m n k', n=n)


class Attention(Module):
    """Depthwise-separable self-attention, `[b h w d] -> [b h w d]`."""

    heads: int = 8
    dim_head: int = 32
    window_size: int = 7
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, size = x.shape[-1], self.window_size
        windows = check_windows(x, size)
        x = to_windows(ChannelLayerNorm(**self.precision, name='norm')(x), size)
        token = repeat(self.param('window_tokens', normal(1.0), (dim,), self.param_dtype), 'd -> b 1 d', b=x.shape[0])
        x = jnp.concatenate(self.promote(token, x), axis=1)
        qkv = SequenceConv(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = rearrange(x, '(b m) e n k -> b e m n k', m=windows[0] * windows[1])
        between = WindowAttention(self.dropout, **self.precision, name='window_attention')
        mixed = between(x[:, :, :, 0], x[:, :, :, 1:], train)
        # A single window has nothing to mix with, not even dropout.
        x = x[:, :, :, 1:] if windows == (1, 1) else mixed
        x = from_windows(rearrange(x, 'b e m n k -> (b m) n (e k)'), size, windows)
        x = PointwiseConv(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {
        'window_attention/norm': 'window_tokens_to_qk.0',
        'window_attention/to_qk': 'window_tokens_to_qk.3',
        'to_out': 'to_out.0',
    }


class Stage(Module):
    """Overlapping patches, position encoding generator, transformer, `[b h w c] -> [b h' w' dim]`."""

    dim: int
    stride: int
    depth: int
    heads: int
    dim_head: int
    window_size: int
    ff_mult: int
    dropout: float
    norm: bool
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        kernel = 2 * self.stride - 1
        x = Conv(
            self.dim,
            (kernel, kernel),
            strides=self.stride,
            padding=kernel // 2,
            **self.precision,
            name='embedding',
        )(x)
        x = PEG(**self.precision, name='peg')(x)
        attention = partial(Attention, self.heads, self.dim_head, self.window_size, self.dropout, **self.precision)
        feedforward = partial(ConvFeedForward, self.ff_mult, self.dropout, **self.precision)
        return Transformer(
            self.depth,
            partial(Block, attention, feedforward),
            norm=partial(ChannelLayerNorm, **self.precision) if self.norm else None,
            scan=self.scan,
            remat=self.remat,
            name='transformer',
        )(x, train=train)

    torch_names = {'embedding': '0.conv', 'peg': '1', 'transformer': '2'}


class SepViT(Backbone, kw_only=True):
    """Separable Vision Transformer (arXiv:2203.15380): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_classes: width of the logits.
      dim: width of a token in the first stage, doubled in each further one.
      depth: number of blocks of each stage.
      heads: attention heads, of each stage or of all.
      window_size: height and width of a window, of each stage or of all; has an effect with `use_sizes` only.
      dim_head: width of one head; has an effect with `use_sizes` only.
      ff_mult: hidden width of the feed-forward networks over the stage's.
      channels: of the images.
      dropout: rate after each projection and on the attention maps.
      use_sizes: take `window_size` and `dim_head` as given, not 7 and 32.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: windows do not tile a stage's map, a setting for another number of stages, depth is no sequence,
        images of another layout.
    """

    num_classes: int
    dim: int
    depth: Sequence[int]
    heads: int | Sequence[int]
    window_size: int | Sequence[int] = 7
    dim_head: int = 32
    ff_mult: int = 4
    channels: int = 3
    dropout: float = 0.0
    use_sizes: bool = False
    scan: bool = False
    remat: Remat = False

    def setup(self) -> None:
        stages = len(self.depth)
        heads = per_stage('heads', self.heads, stages)
        windows, dim_head = per_stage('window_size', self.window_size, stages), self.dim_head
        # upstream: window_size and dim_head are taken and never passed on, windows are always 7 and heads 32 wide;
        # `use_sizes=True` has those given.
        if not self.use_sizes:
            windows, dim_head = (7,) * stages, 32
        self.stage = [
            Stage(
                self.dim * 2**index,
                4 if index == 0 else 2,
                depth,
                heads[index],
                dim_head,
                windows[index],
                self.ff_mult,
                self.dropout,
                index < stages - 1,
                self.scan,
                self.remat,
                **self.precision,
            )
            for index, depth in enumerate(self.depth)
        ]
        self.head_norm = LayerNorm(**self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """The images; each stage embeds its own input."""
        check_images(images, self.channels)
        return images

    def encode(self, images: Array, train: bool = False) -> Array:
        """Images to the last stage's feature map, `[b h w c] -> [b h' w' d]`."""
        x = images
        for stage in self.stage:
            x = self.tap('embedding', stage(x, train))
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.mlp_head(self.head_norm(self.tap('to_latent', x).mean(axis=(1, 2))))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, (4, *[2] * (len(self.depth) - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits windows of 7, for tracing."""
        side = 7 * 2 ** (len(self.depth) + 1)
        if self.use_sizes:
            windows = per_stage('window_size', self.window_size, len(self.depth))
            side = 4 * math.lcm(*(size * 2**stage for stage, size in enumerate(windows)))
        return jax.ShapeDtypeStruct((1, side, side, self.channels), jnp.float32)

    torch_names = {'stage_{i}': 'layers.{i}', 'head_norm': 'mlp_head.1', 'mlp_head': 'mlp_head.2'}


def published_size(dim: int, heads: tuple[int, ...], depth: tuple[int, ...]) -> dict:
    """Keyword arguments of the sizes with depthwise-separable attention alone."""
    return dict(num_classes=1000, dim=dim, heads=heads, depth=depth, dim_head=32, window_size=7)


CARD = ModelCard(
    SepViT,
    title='SepViT: Separable Vision Transformer',
    arxiv='2203.15380',
    takes='image [b h w c]',
    paper_size=published_size(32, (1, 2, 4, 8), (1, 2, 6, 2)),
    presets={
        'sep_vit_lite': published_size(32, (1, 2, 4, 8), (1, 2, 6, 2)),
        'sep_vit_tiny': published_size(96, (3, 6, 12, 24), (1, 2, 6, 2)),
        'sep_vit_small': published_size(96, (3, 6, 12, 24), (1, 2, 14, 2)),
    },
)
