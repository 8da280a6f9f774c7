"""Twins: Revisiting the Design of Spatial Attention in Vision Transformers, arXiv:2104.13840.

vit-pytorch's `twins_svt`: four stages, whose blocks look first into windows of neighbours, then from
each position at a grid of summaries of all windows. A depthwise convolution in each stage tells the
position. It differs from ViT in all of that and in being averaged at the end.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, patch_grid
from vit_flax.blocks.conv import PEG, ChannelLayerNorm, ConvFeedForward, PatchConv
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, PointwiseConv
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.windows import check_windows, from_windows, to_windows
from vit_flax.card import ModelCard

# upstream: every attention has 8 heads, 64 wide, whatever the width of the stage.
HEADS, DIM_HEAD = 8, 64


class PatchEmbedding(Module):
    """LayerNorm, Linear, LayerNorm on patches of a feature map, `[b H W c] -> [b h w dim]`."""

    patch_size: int
    dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        p = self.patch_size
        patch_grid(x.shape[1:3], p, name='the height and width of the feature map')
        x = rearrange(x, 'b (h p) (w q) c -> b h w (c p q)', p=p, q=p)
        x = ChannelLayerNorm(**self.precision, name='patch_norm')(x)
        x = PointwiseConv(self.dim, **self.precision, name='projection')(x)
        return ChannelLayerNorm(**self.precision, name='norm')(x)

    torch_names = {'patch_norm': 'proj.0', 'projection': 'proj.1', 'norm': 'proj.2'}


class LocalAttention(Module):
    """Self-attention inside windows, `[b h w d] -> [b h w d]`."""

    window_size: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], HEADS * DIM_HEAD
        windows = check_windows(x, self.window_size, 'local_patch_size')
        x = ChannelLayerNorm(**self.precision, name='norm')(to_windows(x, self.window_size))
        q = PointwiseConv(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = PointwiseConv(2 * inner, use_bias=False, **self.precision, name='to_kv')(x)
        q, k, v = (split_heads(t, HEADS) for t in (q, *jnp.split(kv, 2, axis=-1)))
        # upstream: the attention inside windows has no dropout on its map, the other one has.
        x = merge_heads(attend(self, q, k, v, scale=DIM_HEAD**-0.5, train=train))
        x = PointwiseConv(dim, **self.precision, name='to_out')(x)
        x = nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)
        return from_windows(x, self.window_size, windows)

    torch_names = {'to_out': 'to_out.0'}


class GlobalAttention(Module):
    """Attention from every position to one summary of each window, `[b h w d] -> [b h w d]`."""

    window_size: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        (_, height, width, dim), inner = x.shape, HEADS * DIM_HEAD
        if min(height, width) < self.window_size:
            raise ValueError(f'global_k={self.window_size} is larger than the feature map of {height} x {width}')
        x = ChannelLayerNorm(**self.precision, name='norm')(x)
        q = PointwiseConv(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = PatchConv(2 * inner, self.window_size, use_bias=False, **self.precision, name='to_kv')(x)
        q, k, v = (rearrange(t, 'b h w (e k) -> b e (h w) k', e=HEADS) for t in (q, *jnp.split(kv, 2, axis=-1)))
        x = attend(self, q, k, v, scale=DIM_HEAD**-0.5, dropout=self.dropout, train=train)
        x = rearrange(x, 'b e (h w) k -> b h w (e k)', h=height)
        x = PointwiseConv(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class TwinsBlock(Module):
    """Attention inside windows, if there is any, and to their summaries, a feed-forward network behind each."""

    local_patch_size: int | None
    global_k: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        feedforward = partial(ConvFeedForward, dropout=self.dropout, **self.precision)
        if self.local_patch_size is not None:
            local = LocalAttention(self.local_patch_size, self.dropout, **self.precision, name='local_attention')
            x = x + local(x, train)
            x = x + feedforward(name='local_feedforward')(x, train)
        x = x + GlobalAttention(self.global_k, self.dropout, **self.precision, name='global_attention')(x, train)
        x = x + feedforward(name='global_feedforward')(x, train)
        return self.tap('block', x)

    torch_names = {
        'local_attention': '0.fn',
        'local_feedforward': '1.fn',
        'global_attention': '2.fn',
        'global_feedforward': '3.fn',
    }


class Stage(Module):
    """Patches, one block, the position encoding generator, `depth` blocks, `[b H W c] -> [b h w emb_dim]`."""

    emb_dim: int
    patch_size: int
    local_patch_size: int | None
    global_k: int
    depth: int
    peg_kernel_size: int
    dropout: float = 0.0
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        transformer = partial(
            Transformer,
            block=partial(TwinsBlock, self.local_patch_size, self.global_k, self.dropout, **self.precision),
            scan=self.scan,
            remat=self.remat,
        )
        x = PatchEmbedding(self.patch_size, self.emb_dim, **self.precision, name='embedding')(x)
        # upstream: a stage has one block more than its depth says, before the position encoding generator.
        x = transformer(1, name='first_transformer')(x, train=train)
        x = PEG(self.peg_kernel_size, **self.precision, name='peg')(x)
        return transformer(self.depth, name='transformer')(x, train=train)

    torch_names = {'embedding': '0', 'first_transformer': '1', 'peg/conv': '2.proj.fn', 'transformer': '3'}


class TwinsSVT(Backbone, kw_only=True):
    """Twins-SVT (arXiv:2104.13840): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      num_classes: width of the logits.
      s1_emb_dim: width of the first stage (s2, s3, s4: the others').
      s1_patch_size: height and width of its patches; must divide the map before.
      s1_local_patch_size: height and width of a window; must divide the stage's map. The last stage has none.
      s1_global_k: side of the patch behind one summary.
      s1_depth: blocks, beside the one that each stage begins with.
      peg_kernel_size: of the position-encoding convolution; odd.
      dropout: rate after each projection and on the attention maps to the summaries.
      channels: of the images.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches or windows do not tile a map, a summary larger than the map, an even kernel, or images of
        another layout.
    """

    num_classes: int
    s1_emb_dim: int = 64
    s1_patch_size: int = 4
    s1_local_patch_size: int = 7
    s1_global_k: int = 7
    s1_depth: int = 1
    s2_emb_dim: int = 128
    s2_patch_size: int = 2
    s2_local_patch_size: int = 7
    s2_global_k: int = 7
    s2_depth: int = 1
    s3_emb_dim: int = 256
    s3_patch_size: int = 2
    s3_local_patch_size: int = 7
    s3_global_k: int = 7
    s3_depth: int = 5
    s4_emb_dim: int = 512
    s4_patch_size: int = 2
    s4_local_patch_size: int = 7
    s4_global_k: int = 7
    s4_depth: int = 4
    peg_kernel_size: int = 3
    dropout: float = 0.0
    channels: int = 3
    scan: bool = False
    remat: Remat = False

    head = ('to_logits',)

    def setup(self) -> None:
        self.stage = [self._stage(prefix) for prefix in ('s1', 's2', 's3', 's4')]
        self.to_logits = Dense(self.num_classes, **self.precision)

    def _stage(self, prefix: str) -> Stage:
        names = ('emb_dim', 'patch_size', 'local_patch_size', 'global_k', 'depth')
        settings = {name: getattr(self, f'{prefix}_{name}') for name in names}
        if prefix == 's4':
            settings['local_patch_size'] = None
        shared = dict(dropout=self.dropout, scan=self.scan, remat=self.remat, **self.precision)
        return Stage(**settings, peg_kernel_size=self.peg_kernel_size, **shared)

    def embed(self, images: Array, train: bool = False) -> Array:
        """The images; each stage embeds its own input."""
        check_images(images, self.channels)
        return images

    def encode(self, images: Array, train: bool = False) -> Array:
        """Images to the last stage's feature map, `[b h w c] -> [b h' w' s4_emb_dim]`."""
        x = images
        for stage in self.stage:
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
        return stage_grids(lengths, (self.s1_patch_size, self.s2_patch_size, self.s3_patch_size, self.s4_patch_size))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, 224, 224, self.channels), jnp.float32)

    torch_names = {'stage_{i}': 'layers.{i}', 'to_logits': 'layers.6'}


CARD = ModelCard(
    TwinsSVT,
    title='Twins: Revisiting the Design of Spatial Attention in Vision Transformers',
    arxiv='2104.13840',
    takes='image [b h w c]',
    paper_size=dict(num_classes=1000),
)
