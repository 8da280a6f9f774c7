"""CvT: Introducing Convolutions to Vision Transformers, arXiv:2103.15808.

vit-pytorch's `cvt`: three stages, each a strided convolution that embeds overlapping patches and
a transformer whose queries, keys and values come from depthwise convolutions (keys and values on
a coarser grid). It differs from ViT in having no positions and no class token: convolutions tell
the position, and the last feature map is averaged.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images
from vit_flax.blocks.conv import ChannelLayerNorm, ConvFeedForward
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, PointwiseConv
from vit_flax.blocks.transformer import Block, Remat, Transformer
from vit_flax.card import ModelCard


class ConvProjection(Module):
    """Depthwise convolution, BatchNorm, 1x1 convolution, `[b h w d] -> [b h' w' features]`."""

    features: int
    kernel_size: int
    strides: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = Conv(
            x.shape[-1],
            (self.kernel_size, self.kernel_size),
            strides=self.strides,
            padding=self.kernel_size // 2,
            groups=x.shape[-1],
            use_bias=False,
            **self.precision,
            name='depthwise',
        )(x)
        x = BatchNorm(**self.precision, name='norm')(x, train)
        return PointwiseConv(self.features, use_bias=False, **self.precision, name='pointwise')(x)

    torch_names = {'depthwise': 'net.0', 'norm': 'net.1', 'pointwise': 'net.2'}


class ConvAttention(Module):
    """Self-attention over a feature map with convolutional projections, `[b h w d] -> [b h w d]`."""

    proj_kernel: int
    kv_proj_stride: int
    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        _, height, _, dim = x.shape
        inner = self.heads * self.dim_head
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        q = ConvProjection(inner, self.proj_kernel, 1, **self.precision, name='to_q')(x, train)
        kv = ConvProjection(2 * inner, self.proj_kernel, self.kv_proj_stride, **self.precision, name='to_kv')(x, train)
        q, k, v = (rearrange(t, 'b h w (e k) -> b e (h w) k', e=self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = rearrange(x, 'b e (h w) k -> b h w (e k)', h=height)
        x = PointwiseConv(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class Stage(Module):
    """Strided convolution, LayerNorm, transformer, `[b h w c] -> [b h' w' emb_dim]`."""

    emb_dim: int
    emb_kernel: int
    emb_stride: int
    proj_kernel: int
    kv_proj_stride: int
    heads: int
    depth: int
    mlp_mult: int
    dropout: float = 0.0
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = Conv(
            self.emb_dim,
            (self.emb_kernel, self.emb_kernel),
            strides=self.emb_stride,
            padding=self.emb_kernel // 2,
            **self.precision,
            name='embedding',
        )(x)
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        attention = partial(
            ConvAttention,
            self.proj_kernel,
            self.kv_proj_stride,
            heads=self.heads,
            dropout=self.dropout,
            **self.precision,
        )
        feedforward = partial(ConvFeedForward, self.mlp_mult, dropout=self.dropout, **self.precision)
        return Transformer(
            depth=self.depth,
            block=partial(Block, attention, feedforward),
            scan=self.scan,
            remat=self.remat,
            name='transformer',
        )(x, train=train)

    torch_names = {'embedding': '0', 'norm': '1', 'transformer': '2'}


class CvT(Backbone, kw_only=True):
    """Convolutional vision Transformer (arXiv:2103.15808): images `[b h w c]` to logits `[b num_classes]`.

    Any height and width will do.

    Attributes:
      num_classes: width of the logits.
      s1_emb_dim, s1_emb_kernel, s1_emb_stride, s2_emb_dim, s2_emb_kernel, s2_emb_stride, s3_emb_dim, s3_emb_kernel,
        s3_emb_stride: the embedding convolution of each of the three stages: width, kernel, step.
      s1_proj_kernel, s2_proj_kernel, s3_proj_kernel: kernel of the depthwise convolutions before queries, keys and
        values; odd.
      s1_kv_proj_stride, s2_kv_proj_stride, s3_kv_proj_stride: step of the one before keys and values.
      s1_heads, s2_heads, s3_heads: attention heads of a stage, each 64 wide.
      s1_depth, s2_depth, s3_depth: blocks of a stage.
      s1_mlp_mult, s2_mlp_mult, s3_mlp_mult: hidden width of the feed-forward networks over the stage's width.
      dropout: rate after each projection and on the attention maps.
      channels: of the images.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: an even kernel, or images of another layout.
    """

    num_classes: int
    s1_emb_dim: int = 64
    s1_emb_kernel: int = 7
    s1_emb_stride: int = 4
    s1_proj_kernel: int = 3
    s1_kv_proj_stride: int = 2
    s1_heads: int = 1
    s1_depth: int = 1
    s1_mlp_mult: int = 4
    s2_emb_dim: int = 192
    s2_emb_kernel: int = 3
    s2_emb_stride: int = 2
    s2_proj_kernel: int = 3
    s2_kv_proj_stride: int = 2
    s2_heads: int = 3
    s2_depth: int = 2
    s2_mlp_mult: int = 4
    s3_emb_dim: int = 384
    s3_emb_kernel: int = 3
    s3_emb_stride: int = 2
    s3_proj_kernel: int = 3
    s3_kv_proj_stride: int = 2
    s3_heads: int = 6
    s3_depth: int = 10
    s3_mlp_mult: int = 4
    dropout: float = 0.0
    channels: int = 3
    scan: bool = False
    remat: Remat = False

    head = ('to_logits',)

    def setup(self) -> None:
        self.stage_0, self.stage_1, self.stage_2 = (self._stage(prefix) for prefix in ('s1', 's2', 's3'))
        self.to_logits = Dense(self.num_classes, **self.precision)

    def _stage(self, prefix: str) -> Stage:
        names = (
            'emb_dim',
            'emb_kernel',
            'emb_stride',
            'proj_kernel',
            'kv_proj_stride',
            'heads',
            'depth',
            'mlp_mult',
        )
        settings = {name: getattr(self, f'{prefix}_{name}') for name in names}
        for name in ('emb_kernel', 'proj_kernel'):
            if settings[name] % 2 == 0:
                raise ValueError(f'{prefix}_{name}={settings[name]} must be odd, to be centred on a pixel')
        return Stage(**settings, dropout=self.dropout, scan=self.scan, remat=self.remat, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """The images; each stage embeds its own input."""
        check_images(images, self.channels)
        return images

    def encode(self, images: Array, train: bool = False) -> Array:
        """Images to the last stage's feature map, `[b h w c] -> [b h' w' s3_emb_dim]`."""
        x = images
        for stage in (self.stage_0, self.stage_1, self.stage_2):
            x = self.tap('embedding', stage(x, train))
        return x

    def classify(self, x: Array, train: bool = False) -> Array:
        """Feature map to logits, `[b h w d] -> [b num_classes]`."""
        return self.to_logits(self.tap('to_latent', x).mean(axis=(1, 2)))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, (self.s1_emb_stride, self.s2_emb_stride, self.s3_emb_stride))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, 224, 224, self.channels), jnp.float32)

    torch_names = {'stage_{i}': 'layers.{i}', 'to_logits': 'to_logits.2'}


CARD = ModelCard(
    CvT,
    title='CvT: Introducing Convolutions to Vision Transformers',
    arxiv='2103.15808',
    takes='image [b h w c]',
    paper_size=dict(num_classes=1000),
)
