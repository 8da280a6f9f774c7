"""PiT: Rethinking Spatial Dimensions of Vision Transformers, arXiv:2103.16302.

vit-pytorch's `pit`: a ViT in stages, as a convolutional network has them. Between two stages a
strided depthwise convolution halves the grid of patches and doubles their width, and a linear map
widens the class token. Patches overlap by half, and there is no norm before the head but its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import Attention
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair, patch_grid
from vit_flax.blocks.class_token import ClassTokenAndPositions
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.kernels.pooling import pooled_length
from vit_flax.blocks.kernels.unfold import unfold
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm, PointwiseConv
from vit_flax.blocks.transformer import Block, FeedForward, Remat, Transformer
from vit_flax.card import ModelCard

Grid = tuple[int, int]


class Pool(Module):
    """Halves the grid and doubles the width, `[b 1+h*w d] -> [b 1+h'*w' 2*d]`."""

    @nn.compact
    def __call__(self, x: Array, grid: Grid) -> tuple[Array, Grid]:
        """Args: x, class token first; grid: rows and columns of the patches. Returns both anew."""
        wide = 2 * x.shape[-1]
        cls = Dense(wide, **self.precision, name='widen_class_token')(x[:, :1])
        patches = rearrange(x[:, 1:], 'b (h w) d -> b h w d', h=grid[0])
        depthwise = Conv(wide, (3, 3), strides=2, padding=1, groups=x.shape[-1], **self.precision, name='depthwise')
        patches = PointwiseConv(wide, **self.precision, name='pointwise')(depthwise(patches))
        _, rows, columns, _ = patches.shape
        patches = rearrange(patches, 'b h w d -> b (h w) d')
        return jnp.concatenate([cls, patches], axis=1), (rows, columns)

    torch_names = {
        'widen_class_token': 'cls_ff',
        'depthwise': 'downsample.net.0',
        'pointwise': 'downsample.net.1',
    }


class PiT(Backbone, kw_only=True):
    """Pooling-based ViT (arXiv:2103.16302): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's. Patches start half a patch apart.
      num_classes: width of the logits.
      dim: width of a token in the first stage; doubled from each stage to the next.
      depth: number of blocks in each stage, a tuple.
      heads: attention heads, one number for each stage or one for all.
      mlp_dim: hidden width of the feed-forward networks, in all stages.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded tokens.
      channels: of the images.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image or are one pixel small, depth is no tuple, heads are not one
        for each stage, images of another layout or larger than the position table.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: Sequence[int]
    heads: int | Sequence[int]
    mlp_dim: int
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0
    channels: int = 3
    scan: bool = False
    remat: Remat = False

    def setup(self) -> None:
        stages = len(self.depth)
        heads = (self.heads,) * stages if isinstance(self.heads, int) else tuple(self.heads)
        if len(heads) != stages:
            raise ValueError(f'heads={heads} must be one number or {stages}, one for each stage of depth={self.depth}')
        patch_grid(self.image_size, self.patch_size)
        if min(pair(self.patch_size, 'patch_size')) < 2:
            raise ValueError(f'patch_size={self.patch_size} must be at least 2: patches start half a patch apart')
        self.patch_projection = Dense(self.dim, **self.precision)
        rows, columns = self._grid(*pair(self.image_size, 'image_size'))
        self.positions = ClassTokenAndPositions((rows, columns), self.image_size, self.emb_dropout, **self.precision)
        transformers, pools = [], []
        for stage_depth, stage_heads in zip(self.depth, heads, strict=True):
            block = partial(
                Block,
                attention=partial(Attention, stage_heads, self.dim_head, self.dropout, **self.precision),
                feedforward=partial(FeedForward, self.mlp_dim, self.dropout, **self.precision),
            )
            transformers.append(Transformer(stage_depth, block, scan=self.scan, remat=self.remat))
            pools.append(Pool(**self.precision))
        self.transformer = transformers
        self.pool = pools[:-1]
        self.head_norm = LayerNorm(**self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    @property
    def _stride(self) -> Grid:
        height, width = pair(self.patch_size, 'patch_size')
        return height // 2, width // 2

    def _grid(self, height: int, width: int) -> Grid:
        (p, q), (down, right) = pair(self.patch_size, 'patch_size'), self._stride
        return pooled_length(height, p, down, 0), pooled_length(width, q, right, 0)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, class token first, `[b h w c] -> [b 1+n d]`."""
        check_images(images, self.channels)
        patch_grid(images.shape[1:3], self.patch_size, name='the height and width of the images')
        x = self.patch_projection(unfold(images, self.patch_size, self._stride))
        return self.tap('embedding', self.positions(x, train))

    def encode(self, tokens: Array, train: bool = False, grid: Grid | None = None) -> Array:
        """The stages, `[b 1+n d] -> [b 1+m c]`; `grid`: rows and columns of the patches, if not `image_size`'s."""
        grid = grid or self._grid(*pair(self.image_size, 'image_size'))
        tokens = self.transformer[0](tokens, train=train)
        for pool, transformer in zip(self.pool, self.transformer[1:], strict=True):
            tokens, grid = pool(tokens, grid)
            tokens = transformer(tokens, train=train)
        return tokens

    def classify(self, tokens: Array, train: bool = False) -> Array:
        """The class token's logits, `[b n d] -> [b num_classes]`."""
        return self.mlp_head(self.head_norm(self.tap('to_latent', tokens[:, 0])))

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to the encoded tokens without classes."""
        tokens = self.embed(images, train)
        tokens = self.encode(tokens, train, self._grid(*images.shape[1:3]))
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        grids = stage_grids(self._grid(*lengths), (1, *[2] * (len(self.depth) - 1)))
        return tuple(replace(tokens, prefix=1) for tokens in grids)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.image_size, 'image_size'), self.channels), jnp.float32)

    torch_names = {
        'positions': '',
        'patch_projection': 'to_patch_embedding.2',
        'transformer_{i}': 'layers.{2*i}',
        'pool_{i}': 'layers.{2*i+1}',
        'head_norm': 'mlp_head.0',
        'mlp_head': 'mlp_head.1',
    }


CARD = ModelCard(
    PiT,
    title='Rethinking Spatial Dimensions of Vision Transformers',
    arxiv='2103.16302',
    takes='image [b h w c]',
    # PiT-S
    paper_size=dict(
        image_size=224,
        patch_size=16,
        num_classes=1000,
        dim=144,
        depth=(2, 6, 4),
        heads=(3, 6, 12),
        mlp_dim=576,
        dim_head=48,
    ),
)
