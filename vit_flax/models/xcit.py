"""XCiT: Cross-Covariance Image Transformers, arXiv:2106.09681.

vit-pytorch's `xcit`: attention between channels instead of tokens (its cost is linear in the
number of patches), depthwise convolutions that mix neighbouring patches, LayerScale on each
branch, and a class token that joins only for the last blocks. It differs from ViT in all four.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, ones

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.backbone import Backbone
from vit_flax.blocks.grids import Grid, TokenGrid, image_grid
from vit_flax.blocks.layer_scale import LayerScale, LayerScaleBlock, paper_layer_scale, surviving_layers
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import unit_length
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import add, repeat, to_float32
from vit_flax.blocks.torch_like import BatchNorm, Conv, Dense, LayerNorm, gelu
from vit_flax.blocks.transformer import FeedForward, Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard


def upstream_layer_scale(layer: Array) -> Array:
    """Initial LayerScale of the block with this index, counted from 0, as in vit-pytorch."""
    # upstream: `elif 18 > depth <= 24` is never true, so blocks 19 to 24 start at 1e-6, not at 1e-5;
    # `layer_scale_init=paper_layer_scale` has the 1e-5.
    return jnp.where((layer >= 18) & (layer < 24), 1e-6, paper_layer_scale(layer))


class XCAttention(Module):
    """Cross-covariance attention: channels of a head attend to one another, `[b h w d] -> [b h w d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        _, height, _, dim = x.shape
        x = LayerNorm(**self.precision, name='norm')(rearrange(x, 'b h w d -> b (h w) d'))
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = (rearrange(t, 'b n (e k) -> b e k n', e=self.heads) for t in jnp.split(qkv, 3, axis=-1))
        temperature = self.param('temperature', ones, (self.heads, 1, 1), self.param_dtype)
        sharpness = jnp.exp(to_float32(temperature))
        q, k = (self.cast(t, v) for t in (unit_length(q) * sharpness, unit_length(k)))
        x = attend(self, q, k, v, scale=1.0, dropout=self.dropout, train=train)
        x = rearrange(x, 'b e k (h w) -> b h w (e k)', h=height)
        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class LocalPatchInteraction(Module):
    """LayerNorm, depthwise convolution, BatchNorm, GELU, depthwise convolution, `[b h w d] -> [b h w d]`."""

    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: Array, train: bool = False, update: bool | Array = True) -> Array:
        depthwise = partial(
            Conv,
            x.shape[-1],
            (self.kernel_size, self.kernel_size),
            padding=self.kernel_size // 2,
            groups=x.shape[-1],
            **self.precision,
        )
        x = LayerNorm(**self.precision, name='norm')(x)
        x = depthwise(name='first_conv')(x)
        x = gelu(BatchNorm(**self.precision, name='batch_norm')(x, train, update))
        return depthwise(name='second_conv')(x)

    torch_names = {'norm': 'net.0', 'first_conv': 'net.2', 'batch_norm': 'net.3', 'second_conv': 'net.5'}


class XCABlock(Module):
    """Cross-covariance attention, local patch interaction and feed-forward, each scaled and residual."""

    attention: Callable[..., nn.Module]
    local_patch_interaction: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    layer_scale: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, layer: Array, keep: bool | Array = True, train: bool = False) -> Array:
        """Args: x `[b h w d]`; layer: index of the block; keep: False leaves x and all statistics alone."""
        before = x
        y = self.attention(name='attention')(x, train=train)
        x = x + self.layer_scale(name='attention_scale')(y, layer)
        y = self.local_patch_interaction(name='local_patch_interaction')(x, train=train, update=keep)
        x = x + self.layer_scale(name='local_patch_interaction_scale')(y, layer)
        y = self.feedforward(name='feedforward')(x, train=train)
        x = x + self.layer_scale(name='feedforward_scale')(y, layer)
        return self.tap('block', jnp.where(keep, x, before))

    torch_names = {
        'attention': '0.fn',
        'attention_scale': '0',
        'local_patch_interaction': '1.fn',
        'local_patch_interaction_scale': '1',
        'feedforward': '2.fn',
        'feedforward_scale': '2',
    }


class ClassAttention(Module):
    """Class tokens attend to themselves and the patches, `[b m d], [b n d] -> [b m d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, context: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        context = jnp.concatenate(self.promote(x, context), axis=1)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(context)
        q, k, v = (split_heads(t, self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class XCiT(Backbone, kw_only=True):
    """Cross-Covariance Image Transformer (arXiv:2106.09681): images `[b h w c]` to logits `[b num_classes]`.

    A smaller image than `image_size` takes the first rows of the position table, as upstream does.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      num_classes: width of the logits.
      dim: width of a token.
      depth: blocks of cross-covariance attention.
      cls_depth: blocks of class attention after them.
      heads: attention heads in each block.
      mlp_dim: hidden width of the feed-forward networks.
      dim_head: width of one head.
      dropout: rate after each projection and on the attention maps.
      emb_dropout: rate on the embedded patches.
      local_patch_kernel_size: of the depthwise convolutions; odd.
      layer_dropout: rate at which whole blocks are left out in training.
      channels: of the images.
      layer_scale_init: index of a block to its initial LayerScale; `paper_layer_scale` is the paper's.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.

    Raises:
      ValueError: patches do not tile the image, an even kernel, images of another layout or
        larger than the position table.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_classes: int
    dim: int
    depth: int
    cls_depth: int
    heads: int
    mlp_dim: int
    dim_head: int = 64
    dropout: float = 0.0
    emb_dropout: float = 0.0
    local_patch_kernel_size: int = 3
    layer_dropout: float = 0.0
    channels: int = 3
    layer_scale_init: Callable[[Array], Array] = upstream_layer_scale
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def setup(self) -> None:
        if self.local_patch_kernel_size % 2 == 0:
            raise ValueError(f'local_patch_kernel_size={self.local_patch_kernel_size} must be odd')
        self.to_patch_embedding = PatchEmbedding(self.patch_size, self.dim, **self.precision)
        self.pos_embedding = self.param(
            'pos_embedding', normal(1.0), (self.grid.num_patches, self.dim), self.param_dtype
        )
        self.cls_token = self.param('cls_token', normal(1.0), (self.dim,), self.param_dtype)
        self.embedding_dropout = nn.Dropout(self.emb_dropout)

        heads: dict[str, Any] = dict(heads=self.heads, dim_head=self.dim_head, dropout=self.dropout, **self.precision)
        parts: dict[str, Any] = dict(
            feedforward=partial(FeedForward, self.mlp_dim, dropout=self.dropout, **self.precision),
            layer_scale=partial(LayerScale, self.layer_scale_init, **self.precision),
        )
        xca_block = partial(
            XCABlock,
            attention=partial(XCAttention, **heads),
            local_patch_interaction=partial(LocalPatchInteraction, self.local_patch_kernel_size, **self.precision),
            **parts,
        )
        class_block = partial(LayerScaleBlock, attention=partial(ClassAttention, **heads), **parts)
        self.xcit_transformer = Transformer(self.depth, xca_block, scan=self.scan, remat=self.remat)
        self.final_norm = LayerNorm(**self.precision)
        self.cls_transformer = Transformer(self.cls_depth, class_block, scan=self.scan, remat=self.remat)
        self.head_norm = LayerNorm(**self.precision)
        self.mlp_head = Dense(self.num_classes, **self.precision)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to patches with positions, `[b H W c] -> [b h w d]`."""
        self.grid.check(images)
        x = self.to_patch_embedding(images)
        _, rows, columns, _ = x.shape
        self.grid.check_num_positions(rows * columns)
        self.grid.warn_of_other_grid((rows, columns))
        x, positions = self.promote(x, self.pos_embedding[: rows * columns])
        x = add(x, rearrange(positions, '(h w) d -> h w d', h=rows))
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def encode(self, x: Array, train: bool = False, keep_layers: Array | None = None) -> Array:
        """The cross-covariance blocks and a norm, `[b h w d] -> [b h w d]`."""
        return self.final_norm(self._run(self.xcit_transformer, x, keep=keep_layers, train=train))

    def classify(self, x: Array, train: bool = False, keep_cls_layers: Array | None = None) -> Array:
        """The class-attention blocks and the head, `[b h w d] -> [b num_classes]`."""
        cls = repeat(self.cls_token, 'd -> b 1 d', b=x.shape[0])
        context = rearrange(x, 'b h w d -> b (h w) d')
        cls = self._run(self.cls_transformer, *self.promote(cls, context), keep=keep_cls_layers, train=train)
        return self.mlp_head(self.head_norm(self.tap('to_latent', cls[:, 0])))

    def _run(self, transformer: Transformer, *inputs: Array, keep: Array | None, train: bool) -> Array:
        # upstream: layer dropout also strikes in evaluation; here it does not.
        rows = surviving_layers(self, transformer.depth, self.layer_dropout, keep, train)
        return transformer(*inputs, train=train, layer=jnp.arange(transformer.depth), **rows)

    def __call__(
        self,
        images: Array,
        train: bool = False,
        keep_layers: Array | None = None,
        keep_cls_layers: Array | None = None,
    ) -> Array:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout, and BatchNorm on the batch's statistics.
          keep_layers: bool `[depth]`, which blocks run; drawn from the rng `drop_path` when training
            with `layer_dropout` and left out here (see `draw_layers`).
          keep_cls_layers: bool `[cls_depth]`, the same for the class-attention blocks.
        """
        x = self.encode(self.embed(images, train), train, keep_layers)
        return self.classify(x, train, keep_cls_layers) if self.num_classes > 0 else x

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        # the class token joins in the blocks of class attention
        (patches,) = super().token_grids(lengths)
        return patches, replace(patches, prefix=1)

    def position_tables(self) -> dict[str, PositionTable]:
        return {'pos_embedding': PositionTable(self.grid.shape)}

    torch_names = {
        'pos_embedding': ('pos_embedding', UnitAxes((0,))),
        'head_norm': 'mlp_head.0',
        'mlp_head': 'mlp_head.1',
    }


CARD = ModelCard(
    XCiT,
    title='XCiT: Cross-Covariance Image Transformers',
    arxiv='2106.09681',
    takes='image [b h w c]',
    paper_size=dict(
        image_size=224,
        patch_size=16,
        num_classes=1000,
        dim=384,
        depth=12,
        cls_depth=2,
        heads=8,
        dim_head=48,
        mlp_dim=1536,
    ),
)
