"""Going deeper with Image Transformers, arXiv:2103.17239, as published.

timm's `Cait`, with timm's names of arguments and weights, the network of the authors' checkpoints. Unlike vit-pytorch's
CaiT it has biases on queries, keys, values and the mixtures of heads, no norms around the patch projection, and class
attention without talking heads, behind a norm of class token and patches together.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant, zeros

from vit_flax.blocks.attention import (
    attend,
    attention_map,
    attention_scores,
    merge_heads,
    mix_heads,
    split_heads,
    split_qkv,
)
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, TokenGrid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, multiply, repeat
from vit_flax.blocks.torch_like import LayerNorm
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vision_transformer import STANDARD, Block, Linear, Mlp, PatchEmbed
from vit_flax.weights.timm import sizes


class HeadMixture(Module):
    """A linear map of the heads, `[b e n m] -> [b e n m]` (arXiv:2003.02436)."""

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        heads = maps.shape[1]
        kernel = self.param('kernel', STANDARD, (heads, heads), self.param_dtype)
        bias = self.param('bias', zeros, (heads,), self.param_dtype)
        maps = mix_heads(maps, kernel.astype(maps.dtype))
        return add(maps, bias[:, None, None].astype(maps.dtype))


class TalkingHeadsAttention(Module):
    """Self-attention with heads mixed around the softmax, `[b n d] -> [b n d]`."""

    heads: int
    qkv_bias: bool
    map_dropout: float
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        qkv = Linear(3 * dim, use_bias=self.qkv_bias, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        scores = attention_scores(q, k, (dim // self.heads) ** -0.5)
        scores = HeadMixture(**self.precision, name='mix_scores')(scores)
        weights = HeadMixture(**self.precision, name='mix_weights')(attention_map(self, scores, v.dtype))
        weights = nn.Dropout(self.map_dropout, name='map_dropout')(weights, deterministic=not train)
        x = merge_heads(jnp.einsum('b e n m, b e m k -> b e n k', weights, v))
        x = Linear(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'to_qkv': 'qkv', 'mix_scores': 'proj_l', 'mix_weights': 'proj_w', 'to_out': 'proj'}


class PatchBlock(Block):
    """The plain block, with other names of its factors."""

    torch_names = {'attention_scale': 'gamma_1', 'feedforward_scale': 'gamma_2'}


class ClassAttention(Module):
    """The first token attends to all, `[b n d] -> [b 1 d]`."""

    heads: int
    qkv_bias: bool
    map_dropout: float
    dropout: float

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim = x.shape[-1]
        linear = partial(Linear, dim, use_bias=self.qkv_bias, **self.precision)
        q = linear(name='to_q')(x[:, :1])
        q, k, v = (split_heads(t, self.heads) for t in (q, linear(name='to_k')(x), linear(name='to_v')(x)))
        scale = (dim // self.heads) ** -0.5
        x = merge_heads(attend(self, q, k, v, scale=scale, dropout=self.map_dropout, train=train))
        x = Linear(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='output_dropout')(x, deterministic=not train)

    torch_names = {'to_q': 'q', 'to_k': 'k', 'to_v': 'v', 'to_out': 'proj'}


class ClassBlock(Module):
    """The class token attends to itself and the patches, `[b 1 d], [b n d] -> [b 1 d]`.

    Attributes:
      attention, feedforward, norm: constructors.
      init_values: initial factor of each channel of a branch.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    init_values: float

    @nn.compact
    def __call__(self, cls: Array, patches: Array, train: bool = False) -> Array:
        def scaled(name: str, y: Array) -> Array:
            scale = self.param(name, constant(self.init_values), cls.shape[-1:], self.param_dtype)
            return multiply(*self.promote(y, scale))

        x = self.norm(name='attention_norm')(jnp.concatenate([cls, patches], axis=1))
        cls = cls + scaled('attention_scale', self.attention(name='attention')(x, train))
        x = self.norm(name='feedforward_norm')(cls)
        return self.tap('block', cls + scaled('feedforward_scale', self.feedforward(name='feedforward')(x, train)))

    torch_names = {
        'attention_norm': 'norm1',
        'attention': 'attn',
        'attention_scale': 'gamma_1',
        'feedforward_norm': 'norm2',
        'feedforward': 'mlp',
        'feedforward_scale': 'gamma_2',
    }


class Cait(Backbone, kw_only=True):
    """Class-attention in image Transformers, published (arXiv:2103.17239): images `[b h w c]` to logits `[b classes]`.

    Attributes:
      img_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch, likewise.
      in_chans: channels of the images.
      num_classes: width of the logits; 0 returns the pooled features instead.
      global_pool: what the head reads: 'token' the class token, 'avg' the mean of the patches, '' every token.
      embed_dim: width of a token.
      depth: blocks in which patches attend to patches.
      num_heads: attention heads in each, which share the width.
      mlp_ratio: hidden width of the feed-forward networks over `embed_dim`.
      qkv_bias: a bias on queries, keys and values.
      init_values: initial factor of LayerScale.
      depth_token_only: blocks of class attention after them.
      mlp_ratio_token_only: as `mlp_ratio`, in these.
      drop_rate: dropout on the pooled features.
      pos_drop_rate: on the embedded patches.
      proj_drop_rate: after each projection of the patches' blocks.
      attn_drop_rate: on their attention maps.
      drop_path_rate: at which their branches are dropped, for each image.
      norm_eps: added to the variance.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: heads do not divide the width, or images of another size.
    """

    img_size: int | Sequence[int] = 224
    patch_size: int | Sequence[int] = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: Literal['', 'token', 'avg'] = 'token'
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    init_values: float = 1e-4
    depth_token_only: int = 2
    mlp_ratio_token_only: float = 4.0
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
        return 'patch_embed/kernel'

    def setup(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(f'num_heads={self.num_heads} must divide embed_dim={self.embed_dim}')
        norm = partial(LayerNorm, epsilon=self.norm_eps, **self.precision)

        def feedforward(ratio: float, dropout: float) -> Callable[..., nn.Module]:
            return partial(Mlp, int(self.embed_dim * ratio), 'gelu', 'mlp', True, dropout, None, **self.precision)

        heads: dict[str, Any] = dict(heads=self.num_heads, qkv_bias=self.qkv_bias, **self.precision)
        attention = partial(
            TalkingHeadsAttention, map_dropout=self.attn_drop_rate, dropout=self.proj_drop_rate, **heads
        )
        mlp = feedforward(self.mlp_ratio, self.proj_drop_rate)
        block = partial(PatchBlock, attention, mlp, norm, self.init_values, **self.precision)
        class_block = partial(
            ClassBlock,
            partial(ClassAttention, map_dropout=0.0, dropout=0.0, **heads),
            feedforward(self.mlp_ratio_token_only, 0.0),
            norm,
            self.init_values,
            **self.precision,
        )
        self.patch_embed = PatchEmbed(self.grid.patch, self.embed_dim, **self.precision)
        self.cls_token = self.param('cls_token', STANDARD, (self.embed_dim,), self.param_dtype)
        shape = self.grid.num_patches, self.embed_dim
        self.positions = self.param('pos_embed', STANDARD, shape, self.param_dtype)
        self.position_dropout = nn.Dropout(self.pos_drop_rate)
        self.transformer = Transformer(self.depth, block, scan=self.scan, remat=self.remat)
        self.cls_transformer = Transformer(self.depth_token_only, class_block, scan=self.scan, remat=self.remat)
        self.last_norm = norm()
        self.head_dropout = nn.Dropout(self.drop_rate)
        if self.num_classes:
            self.classifier = Linear(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to patches with positions, `[b h w c] -> [b n d]`."""
        self.grid.check(images)
        x = self.patch_embed(images)
        if x.shape[1:3] != self.grid.shape:
            raise ValueError(
                f'images of {images.shape[1]} x {images.shape[2]} have a grid of {x.shape[1:3]} patches, '
                f'img_size={self.img_size} one of {self.grid.shape}'
            )
        x, positions = self.promote(rearrange(x, 'b h w d -> b (h w) d'), self.positions)
        return self.tap('embedding', self.position_dropout(add(x, positions), deterministic=not train))

    def encode(self, x: Array, train: bool = False, keep_paths: Array | None = None) -> Array:
        """The blocks of the patches, `[b n d] -> [b n d]`.

        Args:
          x: `[b n d]`.
          train: training mode.
          keep_paths: bool `[depth 2 b]`, which branches run for which image, in place of a draw from the rng
            `drop_path` at the rate `drop_path_rate`.
        """
        rate = self.drop_path_rate
        if keep_paths is None and train and rate > 0:
            keep_paths = jax.random.uniform(self.make_rng('drop_path'), (self.depth, 2, x.shape[0])) >= rate
        if keep_paths is None:
            return self.transformer(x, train=train)
        return self.transformer(x, train=train, paths=keep_paths / (1 - rate))

    def classify(self, patches: Array, train: bool = False) -> Array:
        """The blocks of class attention, the pooling and the head, `[b n d] -> [b num_classes]`."""
        cls, patches = self.promote(repeat(self.cls_token, 'd -> b 1 d', b=patches.shape[0]), patches)
        cls = self.cls_transformer(cls, patches, train=train)
        x = self.last_norm(jnp.concatenate([cls, patches], axis=1))
        if self.global_pool:
            x = x[:, 1:].mean(axis=1) if self.global_pool == 'avg' else x[:, 0]
        x = self.tap('to_latent', self.head_dropout(x, deterministic=not train))
        return self.classifier(x) if self.num_classes else x

    def forward_features(self, images: Array, train: bool = False) -> Array:
        """Images to encoded patches, `[b h w c] -> [b n d]`."""
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

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embed': PositionTable(self.grid.shape)}

    torch_source = 'timm'
    torch_names = {
        'cls_token': ('cls_token', UnitAxes((0, 1))),
        'pos_embed': ('pos_embed', UnitAxes((0,))),
        'transformer/block_{i}': 'blocks.{i}',
        'cls_transformer/block_{i}': 'blocks_token_only.{i}',
        'last_norm': 'norm',
        'classifier': 'head',
    }


CARD = ModelCard(
    Cait,
    title='Going deeper with Image Transformers, as published',
    arxiv='2103.17239',
    takes='image [b h w c]',
    paper_size=dict(embed_dim=384, depth=24, num_heads=8, init_values=1e-5),
    presets=sizes('cait_published'),
)
