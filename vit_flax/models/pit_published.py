"""Rethinking Spatial Dimensions of Vision Transformers, arXiv:2103.16302, as published.

timm's `PoolingVisionTransformer`, with timm's names of arguments and weights, the network of the authors' checkpoints.
Unlike vit-pytorch's PiT it has biases on queries, keys and values, no second convolution where the grid is halved, no
position of the class token, and, if distilled, a second token and head (arXiv:2012.12877).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import check_images, pair
from vit_flax.blocks.dropping import draw_paths, path_rates
from vit_flax.blocks.grids import TokenGrid, stage_grids
from vit_flax.blocks.kernels.pooling import pooled_length
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat
from vit_flax.blocks.torch_like import Conv, Dense, LayerNorm
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import Chain, Permute, UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vision_transformer import STANDARD, Attention, Block, Mlp
from vit_flax.weights.timm import sizes


class Pooling(Module):
    """Halves the grid and changes the width, `[b m+h*w d] -> [b m+h'*w' f]`.

    Attributes:
      features: the new width.
      prefix: tokens before the patches.
    """

    features: int
    prefix: int

    @nn.compact
    def __call__(self, x: Array, height: int) -> Array:
        """Args: x, class tokens first; height: rows of the grid."""
        prefix = Dense(self.features, **self.precision, name='widen_prefix')(x[:, : self.prefix])
        patches = rearrange(x[:, self.prefix :], 'b (h w) d -> b h w d', h=height)
        pool = Conv(self.features, (3, 3), strides=2, padding=1, groups=x.shape[-1], **self.precision, name='pool')
        return jnp.concatenate([prefix, rearrange(pool(patches), 'b h w d -> b (h w) d')], axis=1)

    torch_names = {'widen_prefix': 'fc', 'pool': 'conv'}


class PoolingVisionTransformer(Backbone, kw_only=True):
    """Pooling-based ViT as published (arXiv:2103.16302): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      img_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch.
      stride: pixels from one patch to the next.
      base_dims: width of a head in each stage.
      depth: number of blocks in each stage.
      heads: attention heads in each stage.
      mlp_ratio: hidden width of the feed-forward networks over the width of a token.
      num_classes: width of the logits; 0 returns the pooled features instead.
      in_chans: channels of the images.
      global_pool: 'token' classifies the class token; '' returns the logits of all tokens before the patches.
      distilled: a second token and head that learn from a teacher: the mean of both heads' logits in evaluation, both,
        as a tuple, in training.
      drop_rate: dropout on the pooled features.
      pos_drop_rate: on the embedded patches.
      proj_drop_rate: after each projection.
      attn_drop_rate: on the attention maps.
      drop_path_rate: at which the last block's branches are dropped, for each image; the first's never are.
      scan: compile one block for all layers of a stage, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: stages that are not given for each argument, no room for a patch, images of another size, or
        `distilled` with another pooling.
    """

    img_size: int | Sequence[int] = 224
    patch_size: int = 16
    stride: int = 8
    base_dims: Sequence[int] = (48, 48, 48)
    depth: Sequence[int] = (2, 6, 4)
    heads: Sequence[int] = (2, 4, 8)
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    in_chans: int = 3
    global_pool: Literal['', 'token'] = 'token'
    distilled: bool = False
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: Remat = False

    pools_without_classes: ClassVar[bool] = True

    @property
    def input_kernel(self) -> str:
        return 'patch_embed/kernel'

    def setup(self) -> None:
        if not len(self.base_dims) == len(self.depth) == len(self.heads):
            raise ValueError(
                f'base_dims={tuple(self.base_dims)}, depth={tuple(self.depth)} and heads={tuple(self.heads)} must have '
                'one number for each stage'
            )
        if self.distilled and not self.global_pool:
            raise ValueError("distilled=True reads its two tokens: it needs global_pool='token'")
        widths = [dim * heads for dim, heads in zip(self.base_dims, self.heads, strict=True)]
        if any(wide % width for width, wide in pairwise(widths)):
            raise ValueError(
                f'base_dims={tuple(self.base_dims)} times heads={tuple(self.heads)}, {widths}: each width must be a '
                'multiple of the one before'
            )
        norm = partial(LayerNorm, epsilon=1e-6, **self.precision)
        self.patch_embed = Conv(widths[0], (self.patch_size, self.patch_size), strides=self.stride, **self.precision)
        shape = (*self.grid_shape, widths[0])
        self.positions = self.param('pos_embed', STANDARD, shape, self.param_dtype)
        self.cls_token = self.param('cls_token', STANDARD, (self.num_prefix_tokens, widths[0]), self.param_dtype)
        self.position_dropout = nn.Dropout(self.pos_drop_rate)
        transformers, pools = [], []
        for width, depth, heads in zip(widths, self.depth, self.heads, strict=True):
            attention = partial(
                Attention,
                heads,
                norm,
                qkv_bias=True,
                proj_bias=True,
                norms_heads=False,
                norms_output=False,
                scale=None,
                map_dropout=self.attn_drop_rate,
                dropout=self.proj_drop_rate,
                linear=Dense,
                **self.precision,
            )
            feedforward = partial(
                Mlp,
                int(width * self.mlp_ratio),
                'gelu',
                'mlp',
                use_bias=True,
                dropout=self.proj_drop_rate,
                norm=None,
                linear=Dense,
                **self.precision,
            )
            block = partial(Block, attention, feedforward, norm, None, **self.precision)
            transformers.append(Transformer(depth, block, scan=self.scan, remat=self.remat))
            pools.append(Pooling(width, self.num_prefix_tokens, **self.precision))
        self.transformer = transformers
        self.pool = pools[1:]
        self.last_norm = norm()
        self.head_dropout = nn.Dropout(self.drop_rate)
        if self.num_classes:
            self.classifier = Dense(self.num_classes, **self.precision)
            if self.distilled:
                self.distilled_classifier = Dense(self.num_classes, **self.precision)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        return self._grid(pair(self.img_size, 'img_size'))

    def _grid(self, lengths: Sequence[int]) -> tuple[int, int]:
        if min(lengths) < self.patch_size:
            raise ValueError(f'img_size={self.img_size} holds no patch of patch_size={self.patch_size}')
        height, width = (pooled_length(length, self.patch_size, self.stride, 0) for length in lengths)
        return height, width

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, class tokens first, `[b h w c] -> [b m+n d]`."""
        check_images(images, self.in_chans)
        if images.shape[1:3] != pair(self.img_size, 'img_size'):
            raise ValueError(f'images of {images.shape[1]} x {images.shape[2]} are not of img_size={self.img_size}')
        x, positions = self.promote(self.patch_embed(images), self.positions)
        x = self.position_dropout(add(x, positions), deterministic=not train)
        prefix, x = self.promote(
            repeat(self.cls_token, 'm d -> b m d', b=x.shape[0]), rearrange(x, 'b h w d -> b (h w) d')
        )
        return self.tap('embedding', jnp.concatenate([prefix, x], axis=1))

    def encode(self, x: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The stages, `[b m+n d] -> [b m+n' f]`.

        Args:
          x: `[b m+n d]`.
          train: training mode.
          keep_paths: bool `[sum(depth) 2 b]`, which branches run for which image, in place of `draw_paths` from the
            rng `drop_path`.
        """
        rate, layers = self.drop_path_rate, sum(self.depth)
        if keep_paths is None and train and rate > 0:
            keep_paths = draw_paths(self.make_rng('drop_path'), x.shape[0], rate, layers)
        factors = None if keep_paths is None else keep_paths / (1 - path_rates(rate, layers))[:, None, None]
        ends = np.cumsum([0, *self.depth])
        heights = [grid.shape[0] for grid in stage_grids(self.grid_shape, (1, *[2] * (len(self.depth) - 1)))]
        for i, transformer in enumerate(self.transformer):
            x = self.pool[i - 1](x, heights[i - 1]) if i else x
            rows: dict[str, Any] = {} if factors is None else {'paths': factors[ends[i] : ends[i + 1]]}
            x = transformer(x, train=train, **rows)
        return x

    def classify(self, x: Array, train: bool = False) -> Any:
        """Encoded tokens to logits, `[b n d] -> [b num_classes]`; of both heads with `distilled` in training."""
        x = self.last_norm(x[:, : self.num_prefix_tokens])
        if not self.distilled:
            x = self.head_dropout(x[:, 0] if self.global_pool else x, deterministic=not train)
            x = self.tap('to_latent', x)
            return self.classifier(x) if self.num_classes else x
        cls, distilled = (self.head_dropout(x[:, i], deterministic=not train) for i in (0, 1))
        self.tap('to_latent', (cls + distilled) / 2)
        if self.num_classes:
            cls, distilled = self.classifier(cls), self.distilled_classifier(distilled)
        return (cls, distilled) if train else (cls + distilled) / 2

    def forward_features(self, images: Array, train: bool = False) -> Array:
        """Images to encoded tokens, `[b h w c] -> [b m+n d]`."""
        return self.encode(self.embed(images, train), train)

    def __call__(self, images: Array, train: bool = False) -> Any:
        """Images to logits, `[b h w c] -> [b num_classes]`; to pooled features `[b d]` without classes."""
        return self.classify(self.forward_features(images, train), train)

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.distilled

    @property
    def head(self) -> tuple[str, ...]:
        if not self.num_classes:
            return ()
        return ('classifier', 'distilled_classifier') if self.distilled else ('classifier',)

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        grids = stage_grids(self._grid(lengths), (1, *[2] * (len(self.depth) - 1)))
        return tuple(replace(tokens, prefix=self.num_prefix_tokens) for tokens in grids)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of an input, for tracing."""
        return jax.ShapeDtypeStruct((1, *pair(self.img_size, 'img_size'), self.in_chans), jnp.float32)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embed': PositionTable(self.grid_shape)}

    torch_source = 'timm'
    torch_names = {
        'cls_token': ('cls_token', UnitAxes((0,))),
        'pos_embed': ('pos_embed', Chain((Permute((2, 0, 1)), UnitAxes((0,))))),
        'patch_embed': 'patch_embed.conv',
        'transformer_{i}/block_{j}': 'transformers.{i}.blocks.{j}',
        'pool_{i}': 'transformers.{i+1}.pool',
        'last_norm': 'norm',
        'classifier': 'head',
        'distilled_classifier': 'head_dist',
    }


CARD = ModelCard(
    PoolingVisionTransformer,
    title='Rethinking Spatial Dimensions of Vision Transformers, as published',
    arxiv='2103.16302',
    takes='image [b h w c]',
    paper_size=dict(heads=(3, 6, 12)),
    presets=sizes('pit_published'),
)
