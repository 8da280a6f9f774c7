"""LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference, arXiv:2104.01136.

vit-pytorch's `levit`: convolutions make the tokens, attention shrinks the grid between stages, and
BatchNorm stands behind every projection of an attention where ViT has LayerNorm before it. Positions
enter each attention map as a learned bias of the distance. A second head can learn from a teacher.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, zeros

from vit_flax.blocks.attention import attend
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.stages import per_stage
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, PointwiseConv, gelu, hard_swish
from vit_flax.blocks.transformer import Block, Remat, Transformer
from vit_flax.card import ModelCard


def distances(grid: tuple[int, int], stride: int) -> np.ndarray:
    """Row of the bias table for each pair of query and key, `[n m]`: the distance between their positions.

    Queries are every `stride`-th position of the grid, keys all of them.
    """
    rows, columns = grid
    queries = np.mgrid[:rows:stride, :columns:stride].reshape(2, -1).T
    keys = np.mgrid[:rows, :columns].reshape(2, -1).T
    return np.abs(queries[:, None] - keys) @ [columns, 1]


class Projection(Module):
    """1x1 convolution and BatchNorm."""

    features: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x = PointwiseConv(self.features, use_bias=False, **self.precision, name='conv')(x)
        return BatchNorm(**self.precision, name='norm')(x, train)

    torch_names = {'conv': '0', 'norm': '1'}


class Attention(Module):
    """Self-attention over a grid of positions, `[b h w d] -> [b h' w' dim_out]`; a stride thins the queries out."""

    grid: tuple[int, int]
    dim_out: int
    heads: int = 8
    dim_key: int = 32
    dim_value: int = 64
    dropout: float = 0.0
    stride: int = 1
    paper_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def project(x, width, name):
            x = Projection(self.heads * width, **self.precision, name=name)(x, train)
            return rearrange(x, 'b h w (e k) -> b e (h w) k', e=self.heads)

        queries = x[:, :: self.stride, :: self.stride]
        height = queries.shape[1]
        q = project(queries, self.dim_key, 'to_q')
        k = project(x, self.dim_key, 'to_k')
        v = project(x, self.dim_value, 'to_v')
        table = self.param('pos_bias', normal(1.0), (self.grid[0] * self.grid[1], self.heads), self.param_dtype)
        scale = self.dim_key**-0.5
        bias = rearrange(to_float32(table)[distances(self.grid, self.stride)], 'n m e -> e n m')
        # upstream: the position bias is divided by the scale of the scores, so that it weighs sqrt(dim_key) times
        # as much as in the paper; `paper_bias=True` adds it as it is.
        bias = bias if self.paper_bias else bias / scale
        x = attend(self, q, k, v, scale=scale, bias=bias, dropout=self.dropout, train=train)
        x = gelu(rearrange(x, 'b e (h w) k -> b h w (e k)', h=height))
        x = PointwiseConv(self.dim_out, **self.precision, name='to_out')(x)
        x = BatchNorm(scale_init=zeros, **self.precision, name='out_norm')(x, train)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_bias': PositionTable(self.grid, offsets=True)}

    torch_names = {'pos_bias': 'pos_bias.weight', 'to_out': 'to_out.1', 'out_norm': 'to_out.2'}
    torch_only = {'pos_indices': lambda module: distances(module.grid, module.stride)}


class FeedForward(Module):
    """1x1 convolution, hard swish, Dropout, 1x1 convolution, Dropout, `[b h w d] -> [b h w d]`."""

    mult: int = 2
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        x = hard_swish(PointwiseConv(dim * self.mult, **self.precision, name='expand')(x))
        x = nn.Dropout(self.dropout, name='hidden_dropout')(x, deterministic=not train)
        x = PointwiseConv(dim, **self.precision, name='contract')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'expand': 'net.0', 'contract': 'net.3'}


class Shrink(Module):
    """The block between two stages: attention to a grid of half the height and width, wider."""

    grid: tuple[int, int]
    dim_out: int
    heads: int
    dim_key: int
    dim_value: int
    paper_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        # upstream: the block between two stages always has feed-forward networks twice as wide, whatever mlp_mult
        # is, and no dropout.
        x = Attention(
            self.grid,
            self.dim_out,
            self.heads,
            self.dim_key,
            self.dim_value,
            stride=2,
            paper_bias=self.paper_bias,
            **self.precision,
            name='attention',
        )(x, train)
        return self.tap('block', x + FeedForward(**self.precision, name='feedforward')(x, train))

    torch_names = {'attention': 'layers.0.0', 'feedforward': 'layers.0.1'}


class LeViT(Backbone, kw_only=True):
    """LeViT (arXiv:2104.01136): images `[b h w c]` to logits `[b num_classes]`.

    With `num_distill_classes` the result is a pair: these logits and those of the distillation head.

    Attributes:
      image_size: height and width in pixels, or one number for both; multiples of 16.
      num_classes: width of the logits.
      dim: width of a token in each stage; a single number for all, the last repeated if there are fewer than stages.
      depth: blocks of each stage, likewise.
      heads: attention heads of each stage, likewise; twice as many in the block behind it.
      mlp_mult: hidden width of the feed-forward networks over `dim`.
      stages: how many.
      dim_key: width of the queries and keys of a head.
      dim_value: width of its values.
      dropout: rate after each projection and on the attention maps.
      num_distill_classes: width of the second head's logits, if there is one.
      channels: of the images.
      paper_bias: add the position bias to the scores as it is, not divided by their scale.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: an image size that 16 does not divide, more settings than stages, images of another size or layout.
    """

    image_size: int | Sequence[int]
    num_classes: int
    dim: int | Sequence[int]
    depth: int | Sequence[int]
    heads: int | Sequence[int]
    mlp_mult: int
    stages: int = 3
    dim_key: int = 32
    dim_value: int = 64
    dropout: float = 0.0
    num_distill_classes: int | None = None
    channels: int = 3
    paper_bias: bool = False
    scan: bool = False
    remat: Remat = False

    head = ('mlp_head', 'distill_head')

    def setup(self) -> None:
        height, width = pair(self.image_size, 'image_size')
        if height % 16 or width % 16:
            raise ValueError(f'image_size={(height, width)} must be multiples of 16: four convolutions halve it')
        dims, depths, heads = (self._of_stages(name) for name in ('dim', 'depth', 'heads'))
        self.conv_embedding = [
            Conv(features, (3, 3), strides=2, padding=1, **self.precision) for features in (32, 64, 128, dims[0])
        ]
        grid = height // 16, width // 16
        stage, shrink = [], []
        for index, (dim, depth, e) in enumerate(zip(dims, depths, heads, strict=True)):
            attention = partial(
                Attention,
                grid,
                dim,
                e,
                self.dim_key,
                self.dim_value,
                self.dropout,
                paper_bias=self.paper_bias,
                **self.precision,
            )
            feedforward = partial(FeedForward, self.mlp_mult, self.dropout, **self.precision)
            block = partial(Block, attention, feedforward)
            stage.append(Transformer(depth, block, scan=self.scan, remat=self.remat))
            if index < self.stages - 1:
                widths = dims[index + 1], 2 * e, self.dim_key, self.dim_value
                shrink.append(Shrink(grid, *widths, paper_bias=self.paper_bias, **self.precision))
                grid = -(-grid[0] // 2), -(-grid[1] // 2)
        self.stage, self.shrink = stage, shrink
        self.mlp_head = Dense(self.num_classes, **self.precision)
        if self.num_distill_classes is not None:
            self.distill_head = Dense(self.num_distill_classes, **self.precision)

    def _of_stages(self, name: str) -> tuple[int, ...]:
        value = getattr(self, name)
        if isinstance(value, list | tuple) and 0 < len(value) < self.stages:
            value = (*value, *[value[-1]] * (self.stages - len(value)))
        return per_stage(name, value, self.stages)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens, `[b h w c] -> [b h/16 w/16 d]`."""
        check_images(images, self.channels)
        if images.shape[1:3] != pair(self.image_size, 'image_size'):
            raise ValueError(
                f'images of shape {images.shape} do not have image_size={pair(self.image_size)}: the position bias '
                'belongs to one grid'
            )
        x = images
        for conv in self.conv_embedding:
            x = conv(x)
        return self.tap('embedding', x)

    def encode(self, x: Array, train: bool = False) -> Array:
        """All stages, `[b h w d] -> [b h' w' d']`."""
        for index, stage in enumerate(self.stage):
            x = stage(x, train=train)
            if index < len(self.shrink):
                x = self.shrink[index](x, train)
        return x

    def classify(self, x: Array, train: bool = False) -> Array | tuple[Array, Array]:
        """Feature map to logits, `[b h w d] -> [b num_classes]`, and those of the distillation head if there is one."""
        x = self.tap('to_latent', x.mean(axis=(1, 2)))
        logits = self.mlp_head(x)
        return logits if self.num_distill_classes is None else (logits, self.distill_head(x))

    def __call__(self, images: Array, train: bool = False) -> Array | tuple[Array, Array]:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded feature map without classes."""
        x = self.encode(self.embed(images, train), train)
        return self.classify(x, train) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        return stage_grids(lengths, (16, *[2] * (self.stages - 1)))

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.channels), jnp.float32)

    # Stages and the blocks between them are one list in the state dict.
    torch_names = {
        'conv_embedding_{i}': 'conv_embedding.{i}',
        'stage_{i}': 'backbone.{2*i}',
        'shrink_{i}': 'backbone.{2*i+1}',
    }


def published_size(dim: tuple[int, ...], heads: tuple[int, ...], depth: tuple[int, ...], dim_key: int) -> dict:
    """Keyword arguments of the paper's sizes; a head's values are twice as wide as its keys."""
    return dict(
        image_size=224,
        num_classes=1000,
        dim=dim,
        heads=heads,
        depth=depth,
        mlp_mult=2,
        dim_key=dim_key,
        dim_value=2 * dim_key,
    )


CARD = ModelCard(
    LeViT,
    title="LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference",
    arxiv='2104.01136',
    takes='image [b h w c]',
    paper_size=published_size((256, 384, 512), (4, 6, 8), (4, 4, 4), 32),
    presets={
        'vit_pytorch_levit_128s': published_size((128, 256, 384), (4, 6, 8), (2, 3, 4), 16),
        'vit_pytorch_levit_128': published_size((128, 256, 384), (4, 8, 12), (4, 4, 4), 16),
        'vit_pytorch_levit_192': published_size((192, 288, 384), (3, 5, 6), (4, 4, 4), 32),
        'vit_pytorch_levit_256': published_size((256, 384, 512), (4, 6, 8), (4, 4, 4), 32),
        'vit_pytorch_levit_384': published_size((384, 512, 768), (6, 9, 12), (4, 4, 4), 32),
    },
)
