"""RegionViT: Regional-to-Local Attention for Vision Transformers, arXiv:2106.02689.

vit-pytorch's `regionvit`: large patches (regions) and small ones (local tokens) side by side. In each
block regions attend to each other, then each local token to its region and the local tokens in it,
through the same weights. It differs from ViT in that, in four stages of coarser maps, and in the
average of the regions at the end.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images
from vit_flax.blocks.conv import PEG, ChannelLayerNorm
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, PointwiseConv, gelu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.windows import check_windows, from_windows, relative_positions, to_windows
from vit_flax.card import ModelCard

# upstream: every attention has 4 heads, 32 wide, whatever the width of the stage.
HEADS, DIM_HEAD = 4, 32
STAGES = 4


class Attention(Module):
    """Pre-norm self-attention with a bias of the scores, `[b n d] -> [b n d]`."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, bias: Array | None = None, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * HEADS * DIM_HEAD, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, HEADS)
        x = attend(self, q, k, v, scale=DIM_HEAD**-0.5, bias=bias, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class FeedForward(Module):
    """LayerNorm, Linear, GELU, Dropout, Linear, `[b n d] -> [b n d]`."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        x = gelu(Dense(4 * dim, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = {'norm': '0', 'expand': '1', 'contract': '4'}


class RegionBlock(Module):
    """Attention between regions, then inside each with its local tokens, and a feed-forward network."""

    attn_dropout: float = 0.0
    ff_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: tuple[Array, Array], bias: Array, train: bool = False) -> tuple[Array, Array]:
        """Args: x: regions `[b m d]` and local tokens by region `[(b m) n d]`; bias `[e 1+n 1+n]`."""
        regions, local = x
        count = regions.shape[1]
        attention = Attention(self.attn_dropout, **self.precision, name='attention')
        regions = regions + attention(regions, train=train)
        both = jnp.concatenate([rearrange(regions, 'b m d -> (b m) 1 d'), local], axis=1)
        both = both + attention(both, bias, train)
        both = both + FeedForward(self.ff_dropout, **self.precision, name='feedforward')(both, train)
        self.tap('block', both)
        return rearrange(both[:, 0], '(b m) d -> b m d', m=count), both[:, 1:]

    torch_names = {'attention': '0', 'feedforward': '1'}


class RegionTransformer(Module):
    """Blocks over two maps, regions `[b h w d]` and local tokens `[b (h p) (w q) d]`."""

    window_size: int
    depth: int
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    scan: bool = False
    remat: Remat = False

    @nn.compact
    def __call__(self, regions: Array, local: Array, train: bool = False) -> tuple[Array, Array]:
        (_, rows, columns, _), (_, height, width, _) = regions.shape, local.shape
        if height % rows or width % columns:
            raise ValueError(
                f'{height} x {width} local tokens cannot be shared out to {rows} x {columns} regions: take images with '
                'more regions on a side, best a power of two'
            )
        size = height // rows, width // columns
        if max(size) > self.window_size:
            raise ValueError(
                f'regions hold {size[0]} x {size[1]} local tokens, window_size={self.window_size} has a bias for no '
                'more: local tokens are 4 pixels apart whatever local_patch_size is, which must not be larger'
            )
        windows = check_windows(local, size)
        x: Any = self.promote(rearrange(regions, 'b h w d -> b (h w) d'), to_windows(local, size))
        block = partial(RegionBlock, self.attn_dropout, self.ff_dropout, **self.precision)
        regions, local = Transformer(self.depth, block, scan=self.scan, remat=self.remat, name='transformer')(
            x, self.bias(size), train=train
        )
        return rearrange(regions, 'b (h w) d -> b h w d', h=rows), from_windows(local, size, windows)

    def bias(self, size: tuple[int, int]) -> Array:
        """A bias for each head and each way between two local tokens, none for the region, `[e 1+n 1+n]`."""
        span = 2 * self.window_size - 1
        table = self.param('local_rel_pos_bias', normal(1.0), (span**2, HEADS), self.param_dtype)
        down, right = relative_positions(size) + self.window_size - 1
        index: np.ndarray = down + right * span
        return jnp.pad(rearrange(to_float32(table)[index], 'n m e -> e n m'), ((0, 0), (1, 0), (1, 0)))

    def position_tables(self) -> dict[str, PositionTable]:
        span = 2 * self.window_size - 1
        return {'local_rel_pos_bias': PositionTable((span, span), offsets=True)}

    torch_names = {
        'local_rel_pos_bias': 'local_rel_pos_bias.weight',
        'transformer/block_{i}': 'layers.{i}',
    }


class LocalEmbedding(Module):
    """Images to local tokens by one convolution of 8 x 8 or three of 3 x 3, `[b h w c] -> [b h/4 w/4 d]`."""

    dim: int
    three_convs: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if not self.three_convs:
            return Conv(self.dim, (8, 8), strides=4, padding=3, **self.precision, name='conv')(x)
        for i in range(2):
            x = Conv(self.dim, (3, 3), strides=2, padding=1, **self.precision, name=f'conv_{i}')(x)
            x = gelu(ChannelLayerNorm(**self.precision, name=f'norm_{i}')(x))
        return Conv(self.dim, (3, 3), padding=1, **self.precision, name='conv_2')(x)

    torch_names = {'conv': '', 'conv_0': '0', 'norm_0': '1', 'conv_1': '3', 'norm_1': '4', 'conv_2': '6'}


class RegionViT(Backbone, kw_only=True):
    """Regional-to-local Vision Transformer (arXiv:2106.02689): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      dim: width of a token in each of the four stages, or one number for all.
      depth: number of blocks, likewise.
      window_size: local tokens on a side of a region; the paper has 7 or 14.
      num_classes: width of the logits.
      tokenize_local_3_conv: three convolutions make the local tokens, not one.
      local_patch_size: pixels on a side of a region over `window_size`; must divide the image's together with it.
      use_peg: a position-encoding depthwise convolution of the local tokens from the second stage on.
      attn_dropout: rate on the attention maps and behind their projection.
      ff_dropout: rate inside the feed-forward networks.
      channels: of the images.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: regions do not tile the image, local tokens cannot be shared out to them in a later stage or are more
        than `window_size` on a side, a setting for another number of stages, images of another layout.
    """

    dim: int | Sequence[int] = (64, 128, 256, 512)
    depth: int | Sequence[int] = (2, 2, 8, 2)
    window_size: int = 7
    num_classes: int = 1000
    tokenize_local_3_conv: bool = False
    local_patch_size: int = 4
    use_peg: bool = False
    attn_dropout: float = 0.0
    ff_dropout: float = 0.0
    channels: int = 3
    scan: bool = False
    remat: Remat = False

    head = ('to_logits',)

    def setup(self) -> None:
        dims, depths = (per_stage(name, getattr(self, name), STAGES) for name in ('dim', 'depth'))
        # upstream: the local tokens come from 3 channels and stand 4 pixels apart, whatever channels and
        # local_patch_size are; here the channels are those given.
        self.local_embedding = LocalEmbedding(dims[0], self.tokenize_local_3_conv, **self.precision)
        self.region_embedding = PointwiseConv(dims[0], **self.precision)
        self.downsample = [Conv(dim, (3, 3), strides=2, padding=1, **self.precision) for dim in dims[1:]]
        if self.use_peg:
            self.peg = [PEG(**self.precision) for _ in dims[1:]]
        self.transformer = [
            RegionTransformer(
                self.window_size,
                depth,
                self.attn_dropout,
                self.ff_dropout,
                self.scan,
                self.remat,
                **self.precision,
            )
            for depth in depths
        ]
        self.head_norm = LayerNorm(**self.precision)
        self.to_logits = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """Images to regions and local tokens, `[b H W c] -> [b h w d], [b H/4 W/4 d]`."""
        check_images(images, self.channels)
        side = self.local_patch_size * self.window_size
        if images.shape[1] % side or images.shape[2] % side:
            raise ValueError(
                f'images of shape {images.shape} cannot be cut into regions of {side} pixels a side '
                f'(local_patch_size={self.local_patch_size} times window_size={self.window_size})'
            )
        regions = self.region_embedding(rearrange(images, 'b (h p) (w q) c -> b h w (c p q)', p=side, q=side))
        return self.tap('embedding', regions), self.local_embedding(images)

    def encode(self, tokens: tuple[Array, Array], train: bool = False) -> Array:
        """All stages, regions and local tokens to regions, `([b h w d], [b h' w' d]) -> [b h" w" d']`."""
        regions, local = tokens
        for index, transformer in enumerate(self.transformer):
            if index > 0:
                regions, local = (self.downsample[index - 1](x) for x in (regions, local))
                if self.use_peg:
                    local = self.peg[index - 1](local)
            regions, local = transformer(regions, local, train)
        return regions

    def classify(self, regions: Array, train: bool = False) -> Array:
        """Regions to logits, `[b h w d] -> [b num_classes]`."""
        return self.to_logits(self.head_norm(self.tap('to_latent', regions).mean(axis=(1, 2))))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded regions without classes."""
        regions = self.encode(self.embed(images, train), train)
        return self.classify(regions, train) if self.num_classes > 0 else regions

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        # of the regions; the local tokens attend within windows
        return stage_grids(lengths, (self.local_patch_size * self.window_size, *[2] * (STAGES - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        side = 8 * self.local_patch_size * self.window_size
        return jax.ShapeDtypeStruct((1, side, side, self.channels), jnp.float32)

    torch_names = {
        'local_embedding': 'local_encoder',
        'region_embedding': 'region_encoder.1',
        # the first stage has neither
        **{f'downsample_{i}': f'layers.{i + 1}.0.conv' for i in range(STAGES - 1)},
        **{f'peg_{i}': f'layers.{i + 1}.1' for i in range(STAGES - 1)},
        'transformer_{i}': 'layers.{i}.2',
        'head_norm': 'to_logits.1',
        'to_logits': 'to_logits.2',
    }


def published_size(dim: tuple[int, ...], depth: tuple[int, ...], tokenize_local_3_conv: bool) -> dict:
    """Keyword arguments of the paper's sizes."""
    return dict(dim=dim, depth=depth, window_size=7, num_classes=1000, tokenize_local_3_conv=tokenize_local_3_conv)


CARD = ModelCard(
    RegionViT,
    title='RegionViT: Regional-to-Local Attention for Vision Transformers',
    arxiv='2106.02689',
    takes='image [b h w c]',
    paper_size=published_size((64, 128, 256, 512), (2, 2, 8, 2), False),
)
