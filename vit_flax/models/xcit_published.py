"""XCiT: Cross-Covariance Image Transformers, arXiv:2106.09681, as published.

timm's `Xcit`, with timm's names of arguments and weights, the network of the authors' checkpoints. Unlike vit-pytorch's
XCiT it begins with convolutions, its positions are Fourier features, its temperatures multiply as they are, the local
patch interaction normalises behind its activation, and the blocks of class attention change the patches, too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant, ones

from vit_flax.blocks.attention import attend
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, TokenGrid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.precision import add, multiply, repeat, to_float32
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, LayerNorm, gelu
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import POINTWISE, UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.cait_published import ClassAttention
from vit_flax.models.vision_transformer import STANDARD, Linear, Mlp
from vit_flax.weights.timm import sizes

# Of the Fourier features: frequencies along each axis, and the ratio of the largest period to the smallest.
FREQUENCIES, TEMPERATURE = 32, 10_000


class ConvPatchEmbed(Module):
    """Convolutions of stride 2, BatchNorm and GELU, `[b H W c] -> [b h w d]`; the last without GELU.

    Attributes:
      dim: width of a token.
      patch_size: 8 or 16, of three or four convolutions.
    """

    dim: int
    patch_size: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        layers = int(math.log2(self.patch_size))
        for i in range(layers):
            width = self.dim >> (layers - 1 - i)
            conv = Conv(width, (3, 3), strides=2, padding=1, use_bias=False, **self.precision, name=f'conv_{i}')
            x = BatchNorm(**self.precision, name=f'norm_{i}')(conv(x), train)
            x = gelu(x) if i < layers - 1 else x
        return x

    torch_names = {'conv_{i}': 'proj.{2*i}.0', 'norm_{i}': 'proj.{2*i}.1'}


class FourierPositions(Module):
    """A linear map of sines and cosines of rows and columns, `[b h w d] -> [h w d]`."""

    dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Args: x: the tokens that they are positions of."""
        features = jnp.asarray(fourier_features(*x.shape[1:3]), x.dtype)
        return Dense(self.dim, **self.precision, name='projection')(features)

    torch_names = {'projection': ('token_projection', {'kernel': ('weight', POINTWISE)})}


def fourier_features(height: int, width: int) -> np.ndarray:
    """Sines and cosines in turn, of rows, then of columns, `[h w 2*frequencies]` in float64; the last is at 2 pi."""
    periods = TEMPERATURE ** (2 * (np.arange(FREQUENCIES) // 2) / FREQUENCIES)
    waves = []
    for length in (height, width):
        angles = 2 * np.pi * np.arange(1, length + 1)[:, None] / (length + 1e-6) / periods
        waves.append(np.where(np.arange(FREQUENCIES) % 2, np.cos(angles), np.sin(angles)))
    rows, columns = waves
    shape = height, width, FREQUENCIES
    return np.concatenate([np.broadcast_to(rows[:, None], shape), np.broadcast_to(columns[None], shape)], axis=-1)


class CrossCovariance(Module):
    """Channels of a head attend to one another, `[b h w d] -> [b h w d]`."""

    heads: int
    qkv_bias: bool
    map_dropout: float
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        _, height, _, dim = x.shape
        qkv = Linear(3 * dim, use_bias=self.qkv_bias, **self.precision, name='to_qkv')(x)
        q, k, v = (rearrange(t, 'b h w (e k) -> b e k (h w)', e=self.heads) for t in jnp.split(qkv, 3, axis=-1))
        temperature = to_float32(self.param('temperature', ones, (self.heads, 1, 1), self.param_dtype))
        q, k = (self.cast(t, v) for t in (unit_length(q) * temperature, unit_length(k)))
        x = attend(self, q, k, v, scale=1.0, dropout=self.map_dropout, train=train)
        x = rearrange(x, 'b e k (h w) -> b h w (e k)', h=height)
        x = Linear(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'qkv', 'to_out': 'proj'}


class LocalPatchInteraction(Module):
    """Depthwise convolution, GELU, BatchNorm, depthwise convolution, `[b h w d] -> [b h w d]`."""

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        depthwise = partial(Conv, dim, (3, 3), padding=1, groups=dim, **self.precision)
        x = gelu(depthwise(name='first_conv')(x))
        return depthwise(name='second_conv')(BatchNorm(**self.precision, name='norm')(x, train))

    torch_names = {'first_conv': 'conv1', 'norm': 'bn', 'second_conv': 'conv2'}


class XCABlock(Module):
    """Cross-covariance attention, local patch interaction and a feed-forward network, each behind a norm, scaled, and
    added, `[b h w d] -> [b h w d]`.

    Attributes:
      attention, local_patch_interaction, feedforward, norm: constructors.
      eta: initial factor of each channel of a branch.
    """

    attention: Callable[..., nn.Module]
    local_patch_interaction: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    eta: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False, paths: Array | None = None) -> Array:
        """Args: x `[b h w d]`; paths: a factor of each branch for each image, `[3 b]`."""
        for index, name in enumerate(('attention', 'local_patch_interaction', 'feedforward')):
            y = getattr(self, name)(name=name)(self.norm(name=f'{name}_norm')(x), train)
            scale = self.param(f'{name}_scale', constant(self.eta), x.shape[-1:], self.param_dtype)
            y = multiply(*self.promote(y, scale))
            x = x + (y if paths is None else y * paths[index, :, None, None, None].astype(y.dtype))
        return self.tap('block', x)

    torch_names = {
        'attention_norm': 'norm1',
        'attention': 'attn',
        'attention_scale': 'gamma1',
        'local_patch_interaction_norm': 'norm3',
        'local_patch_interaction': 'local_mp',
        'local_patch_interaction_scale': 'gamma3',
        'feedforward_norm': 'norm2',
        'feedforward': 'mlp',
        'feedforward_scale': 'gamma2',
    }


class ClassBlock(Module):
    """Class attention and a feed-forward network for the class token, `[b 1+n d] -> [b 1+n d]`.

    For the patches their norm stands in the place of attention, and they are doubled where the class token is fed
    forward.

    Attributes:
      attention, feedforward, norm: constructors.
      eta: initial factor of each channel of a branch.
      tokens_norm: normalise the patches with the class token before the feed-forward network.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    eta: float
    tokens_norm: bool

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        def scaled(name: str, y: Array) -> Array:
            scale = self.param(name, constant(self.eta), x.shape[-1:], self.param_dtype)
            return multiply(*self.promote(y, scale))

        normed = self.norm(name='attention_norm')(x)
        attended = jnp.concatenate([self.attention(name='attention')(normed, train), normed[:, 1:]], axis=1)
        x = x + scaled('attention_scale', attended)
        norm = self.norm(name='feedforward_norm')
        cls, patches = jnp.split(norm(x), [1], axis=1) if self.tokens_norm else (norm(x[:, :1]), x[:, 1:])
        cls = cls + scaled('feedforward_scale', self.feedforward(name='feedforward')(cls, train))
        # upstream: the residual sum is taken over the patches too, beside which no branch stands: they double.
        return self.tap('block', jnp.concatenate([cls, patches + patches], axis=1))

    torch_names = {
        'attention_norm': 'norm1',
        'attention': 'attn',
        'attention_scale': 'gamma1',
        'feedforward_norm': 'norm2',
        'feedforward': 'mlp',
        'feedforward_scale': 'gamma2',
    }


class Xcit(Backbone, kw_only=True):
    """Cross-Covariance Image Transformer as published (arXiv:2106.09681): images `[b h w c]` to logits `[b classes]`.

    Images of any size that patches tile are taken: positions are computed.

    Attributes:
      img_size: height and width in pixels, or one number for both.
      patch_size: 8 or 16: how much the convolutions reduce height and width.
      in_chans: channels of the images.
      num_classes: width of the logits; 0 returns the pooled features instead.
      global_pool: what the head reads: 'token' the class token, 'avg' the mean of the patches, '' every token.
      embed_dim: width of a token.
      depth: blocks of cross-covariance attention.
      num_heads: attention heads in each, which share the width.
      mlp_ratio: hidden width of the feed-forward networks over `embed_dim`.
      qkv_bias: a bias on queries, keys and values.
      cls_attn_layers: blocks of class attention after them.
      use_pos_embed: add Fourier features of the positions.
      eta: initial factor of each channel of a branch.
      tokens_norm: normalise the patches with the class token in the blocks of class attention.
      drop_rate: dropout on the pooled features.
      pos_drop_rate: on the embedded patches.
      proj_drop_rate: after each projection.
      attn_drop_rate: on the attention maps.
      drop_path_rate: at which branches of the cross-covariance blocks are dropped, for each image.
      norm_eps: added to the variance.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: another patch size, heads or convolutions do not divide the width, or patches do not tile the images.
    """

    img_size: int | Sequence[int] = 224
    patch_size: Literal[8, 16] = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: Literal['', 'token', 'avg'] = 'token'
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    cls_attn_layers: int = 2
    use_pos_embed: bool = True
    eta: float = 1.0
    tokens_norm: bool = False
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-6
    scan: bool = False
    remat: Remat = False

    pools_without_classes: ClassVar[bool] = True

    @property
    def input_kernel(self) -> str:
        return 'patch_embed/conv_0/kernel'

    def setup(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(f'num_heads={self.num_heads} must divide embed_dim={self.embed_dim}')
        if self.patch_size not in (8, 16) or self.embed_dim % (self.patch_size // 2):
            raise ValueError(
                f'patch_size={self.patch_size} must be 8 or 16, and its half divide embed_dim={self.embed_dim}'
            )
        norm = partial(LayerNorm, epsilon=self.norm_eps, **self.precision)
        feedforward = partial(
            Mlp,
            int(self.embed_dim * self.mlp_ratio),
            'gelu',
            kind='mlp',
            use_bias=True,
            dropout=self.proj_drop_rate,
            norm=None,
            **self.precision,
        )
        heads: dict[str, Any] = dict(
            heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            map_dropout=self.attn_drop_rate,
            dropout=self.proj_drop_rate,
            **self.precision,
        )
        self.patch_embed = ConvPatchEmbed(self.embed_dim, self.patch_size, **self.precision)
        self.cls_token = self.param('cls_token', STANDARD, (self.embed_dim,), self.param_dtype)
        if self.use_pos_embed:
            self.positions = FourierPositions(self.embed_dim, **self.precision)
        self.position_dropout = nn.Dropout(self.pos_drop_rate)
        block = partial(
            XCABlock,
            partial(CrossCovariance, **heads),
            partial(LocalPatchInteraction, **self.precision),
            feedforward,
            norm,
            self.eta,
            **self.precision,
        )
        class_block = partial(
            ClassBlock,
            partial(ClassAttention, **heads),
            feedforward,
            norm,
            self.eta,
            self.tokens_norm,
            **self.precision,
        )
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.cls_transformer = Transformer(self.cls_attn_layers, class_block, scan=self.scan, remat=self.remat)
        self.last_norm = norm()
        self.head_dropout = nn.Dropout(self.drop_rate)
        if self.num_classes:
            self.classifier = Linear(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to patches with positions, `[b H W c] -> [b h w d]`."""
        self.grid.check(images)
        x = self.patch_embed(images, train)
        if self.use_pos_embed:
            x, positions = self.promote(x, self.positions(x))
            x = add(x, positions)
        return self.tap('embedding', self.position_dropout(x, deterministic=not train))

    def encode(self, x: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The blocks of cross-covariance attention, `[b h w d] -> [b h w d]`.

        Args:
          x: `[b h w d]`.
          train: training mode.
          keep_paths: bool `[depth 3 b]`, which branches run for which image, in place of a draw from the rng
            `drop_path` at the rate `drop_path_rate`.
        """
        rate = self.drop_path_rate
        if keep_paths is None and train and rate > 0:
            keep_paths = jax.random.uniform(self.make_rng('drop_path'), (self.depth, 3, x.shape[0])) >= rate
        if keep_paths is None:
            return self.transformer(x, train=train)
        return self.transformer(x, train=train, paths=keep_paths / (1 - rate))

    def classify(self, x: Array, train: bool = False) -> Array:
        """The blocks of class attention, the pooling and the head, `[b h w d] -> [b num_classes]`."""
        patches = rearrange(x, 'b h w d -> b (h w) d')
        cls, patches = self.promote(repeat(self.cls_token, 'd -> b 1 d', b=x.shape[0]), patches)
        x = self.cls_transformer(jnp.concatenate([cls, patches], axis=1), train=train)
        x = self.last_norm(x)
        if self.global_pool:
            x = x[:, 1:].mean(axis=1) if self.global_pool == 'avg' else x[:, 0]
        x = self.tap('to_latent', self.head_dropout(x, deterministic=not train))
        return self.classifier(x) if self.num_classes else x

    def forward_features(self, images: Array, train: bool = False) -> Array:
        """Images to encoded patches, `[b H W c] -> [b h w d]`."""
        return self.encode(self.embed(images, train), train)

    def __call__(self, images: Array, train: bool = False) -> Array:
        """Images to logits, `[b h w c] -> [b num_classes]`; to pooled features `[b d]` without classes."""
        return self.classify(self.forward_features(images, train), train)

    @property
    def grid(self) -> Grid:
        return image_grid(self.img_size, self.patch_size, self.in_chans, 'img_size')

    @property
    def head(self) -> tuple[str, ...]:
        return ('classifier',) if self.num_classes else ()

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        # the class token joins in the blocks of class attention
        (patches,) = super().token_grids(lengths)
        return patches, replace(patches, prefix=1)

    torch_source = 'timm'
    torch_names = {
        'cls_token': ('cls_token', UnitAxes((0, 1))),
        'positions': 'pos_embed',
        'transformer/block_{i}': 'blocks.{i}',
        'cls_transformer/block_{i}': 'cls_attn_blocks.{i}',
        'last_norm': 'norm',
        'classifier': 'head',
    }


CARD = ModelCard(
    Xcit,
    title='XCiT: Cross-Covariance Image Transformers, as published',
    arxiv='2106.09681',
    takes='image [b h w c]',
    paper_size=dict(embed_dim=384, num_heads=8, tokens_norm=True),
    presets=sizes('xcit_published'),
)
