"""Qwen3-VL Technical Report, arXiv:2511.21631: its vision encoder.

timm's `Qwen3VitEncoder`: a ViT without a class token, of images of any size, with a position table that is moved to the
grid of each and rotary positions beside it. It ends in a projection of each 2x2 patches to the width of a language
model.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.checks import pair
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, to_float32
from vit_flax.blocks.torch_like import LayerNorm, gelu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.eva import Attention, EvaBlock, axial, grid_coordinates, rotate_half
from vit_flax.models.vision_transformer import STANDARD, Activation, Linear, Mlp, PatchEmbed, surviving_paths
from vit_flax.weights.timm import sizes


class Merger(Module):
    """A norm, then an Mlp on the channels of each square of tokens together, `[b h w d] -> [b n features]`.

    Attributes:
      size: tokens along each side of a square.
      features: width of the result; 0 is that of a square's channels, without the last linear map.
    """

    size: int
    features: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = LayerNorm(self.epsilon, **self.precision, name='norm')(x)
        x = rearrange(x, 'b (h p) (w q) d -> b (h w) (p q d)', p=self.size, q=self.size)
        x = gelu(Linear(x.shape[-1], **self.precision, name='expand')(x))
        return Linear(self.features, **self.precision, name='contract')(x) if self.features else x

    torch_names = {'expand': 'fc1', 'contract': 'fc2'}


def bilinear(old: int, new: int) -> np.ndarray:
    """Weights that move values at equal distances to others, the ends to the ends, `[new old]`."""
    places = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))


class Qwen3Vit(Backbone, kw_only=True):
    """What encoder and classifier share: images `[b h w c]` to tokens `[b n d]`.

    Attributes:
      img_size: height and width in pixels, or one number for both, that trainers take; images of any size that
        patches tile are computed.
      patch_size: height and width of a patch.
      in_chans: channels of the images.
      out_features: width of the tokens that the projection of squares returns; 0 is that of their channels together.
      embed_dim: width of a token.
      depth: number of blocks.
      num_heads: attention heads in each, which share the width.
      mlp_ratio: hidden width of the feed-forward networks over `embed_dim`.
      merge_size: tokens along each side of the squares.
      pos_embed_grid_size: rows and columns of the position table.
      rope_temperature: ratio of the highest to the lowest rotary frequency, about.
      norm_eps: added to the variance.
      act: of the feed-forward networks: 'gelu', 'gelu_tanh', 'quick_gelu' (x sigmoid(1.702 x)) or 'silu'.
      proj_drop_rate: dropout after each projection.
      attn_drop_rate: on the attention maps.
      drop_path_rate: at which the last block's branches are dropped, for each image; the first's never are
        (arXiv:1603.09382).
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: heads do not divide the width by a multiple of 4, or squares do not tile the patches of an image.
    """

    img_size: int | Sequence[int] = 768
    patch_size: int = 16
    in_chans: int = 3
    out_features: int = 0
    embed_dim: int = 1152
    depth: int = 27
    num_heads: int = 16
    mlp_ratio: float = 4304 / 1152
    merge_size: int = 2
    pos_embed_grid_size: int = 48
    rope_temperature: float = 10000.0
    norm_eps: float = 1e-6
    act: Activation = 'gelu_tanh'
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    scan: bool = False
    remat: Remat = False

    @property
    def merges(self) -> bool:
        """Whether squares of tokens are projected."""
        raise NotImplementedError

    def setup(self) -> None:
        if self.embed_dim % (4 * self.num_heads):
            raise ValueError(
                f'embed_dim={self.embed_dim} over num_heads={self.num_heads} must be a multiple of 4: pairs of '
                'channels turn along two axes'
            )
        if self.rope_temperature <= 0:
            raise ValueError(f'rope_temperature={self.rope_temperature} must be above 0')
        norm = partial(LayerNorm, self.norm_eps, **self.precision)
        attention = partial(
            Attention,
            self.num_heads,
            self.num_heads,
            qkv_bias=True,
            key_bias=True,
            fused=True,
            rotation=rotate_half,
            norm=norm,
            norms_heads=False,
            norms_output=False,
            map_dropout=self.attn_drop_rate,
            dropout=self.proj_drop_rate,
            **self.precision,
        )
        hidden = int(self.embed_dim * self.mlp_ratio)
        feedforward = partial(Mlp, hidden, self.act, 'mlp', True, self.proj_drop_rate, None, **self.precision)
        block = partial(EvaBlock, attention, feedforward, norm, False, (None, None), **self.precision)
        self.patch_embed = PatchEmbed(pair(self.patch_size), self.embed_dim, **self.precision)
        shape = self.pos_embed_grid_size**2, self.embed_dim
        self.pos_embed = self.param('pos_embed', STANDARD, shape, self.param_dtype)
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        if self.merges:
            self.merger = Merger(self.merge_size, self.out_features, self.norm_eps, **self.precision)

    def positions(self, shape: Sequence[int]) -> Array:
        """The table moved to a grid of patches, the ends to the ends, `[n d]`."""
        size = self.pos_embed_grid_size
        table = to_float32(self.pos_embed).reshape(size, size, self.embed_dim)
        rows, columns = (jnp.asarray(bilinear(size, length), table.dtype) for length in shape)
        moved = jnp.einsum('h p, w q, p q d -> h w d', rows, columns, table, precision='highest')
        return moved.reshape(-1, self.embed_dim)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`."""
        self.grid.check(images)
        positions = self.positions(self.shape_of(images))
        x = rearrange(self.patch_embed(images), 'b h w d -> b (h w) d')
        return self.tap('embedding', add(*self.promote(x, positions)))

    def shape_of(self, images: Array) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.grid.shape_of(images)
        if self.merges and (rows % self.merge_size or columns % self.merge_size):
            raise ValueError(
                f'images of {images.shape[1]} x {images.shape[2]} have {rows} x {columns} patches, which '
                f'are not divisible by merge_size={self.merge_size}'
            )
        return rows, columns

    def encode(
        self,
        tokens: Array,
        train: bool = False,
        keep_paths: Array | None = None,
        grid: Sequence[int] | None = None,
    ) -> Array:
        """The blocks, `[b n d] -> [b n d]`.

        Args:
          tokens: `[b n d]`.
          train: training mode.
          keep_paths: bool `[depth 2 b]`, which branches run for which image, in place of a draw from the rng
            `drop_path`.
          grid: of the patches, if not that of `img_size`.
        """
        width = self.embed_dim // self.num_heads
        rates = self.rope_temperature ** -np.linspace(0, 1, width // 4, endpoint=False)
        numbers = [np.arange(length) for length in grid or self.grid.shape]
        angles = axial(grid_coordinates(numbers, 'ij'), rates)
        paths: dict[str, Any] = surviving_paths(
            self, tokens.shape[0], self.depth, self.drop_path_rate, keep_paths, train
        )
        return self.transformer(tokens, angles, train=train, **paths)

    def forward_features(self, images: Array, train: bool = False) -> Array:
        """Images to encoded patches, `[b h w c] -> [b h w d]`."""
        rows, columns = self.shape_of(images)
        x = self.encode(self.embed(images, train), train, grid=(rows, columns))
        return rearrange(x, 'b (h w) d -> b h w d', h=rows)

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.embed_dim

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.in_chans

    @property
    def grid(self) -> Grid:
        lengths = tuple(length // self.patch_size * self.patch_size for length in pair(self.img_size, 'img_size'))
        if not all(lengths):
            raise ValueError(f'img_size={self.img_size} holds no patch of patch_size={self.patch_size}')
        return image_grid(lengths, self.patch_size, self.in_chans)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embed': PositionTable((self.pos_embed_grid_size,) * 2)}

    torch_source = 'timm'
    torch_names = {'pos_embed': ('pos_embed', UnitAxes((0,))), 'transformer/block_{i}': 'blocks.{i}'}


class Qwen3VitEncoder(Qwen3Vit, kw_only=True):
    """Vision encoder of Qwen3-VL (arXiv:2511.21631): images `[b h w c]` to tokens of a language model `[b n d]`.

    Attributes:
      global_pool: 'merge' projects squares of tokens, 'avg' returns their mean `[b d]`, '' themselves `[b h w d]`.
    """

    global_pool: Literal['', 'avg', 'merge'] = 'merge'

    taps_latent: ClassVar[bool] = False

    @property
    def merges(self) -> bool:
        return self.global_pool == 'merge'

    @property
    def head(self) -> tuple[str, ...]:
        return ()

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to tokens `[b n d]`, their mean `[b d]`, or patches `[b h w d]`."""
        x = self.forward_features(images, train)
        if self.global_pool == 'merge':
            return self.merger(x)
        return x.mean(axis=(1, 2)) if self.global_pool == 'avg' else x


CARD = ModelCard(
    Qwen3VitEncoder,
    title='Qwen3-VL Technical Report, its vision encoder',
    arxiv='2511.21631',
    takes='image [b h w c]',
    paper_size={},
    presets=sizes('qwen3_vit_encoder'),
)
