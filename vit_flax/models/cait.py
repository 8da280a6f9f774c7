"""Going deeper with Image Transformers, arXiv:2103.17239.

vit-pytorch's `cait`: a ViT in two stages. In the first the patches attend to one another, in the
second a class token reads them. Heads talk before and after the softmax, and each residual branch
is scaled by learned factors that start small (LayerScale).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attention_map, attention_scores, merge_heads, mix_heads, split_heads
from vit_flax.blocks.grids import Grid, TokenGrid, image_grid
from vit_flax.blocks.layer_scale import LayerScale, LayerScaleBlock, paper_layer_scale, surviving_layers
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.blocks.weight_ops import UnitAxes
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


class TalkingHeadsAttention(Module):
    """Tokens attend to themselves and a context, heads mixed around the softmax, `[b n d], [b m d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        # upstream: the class token is normalised, the patches that it attends to are not.
        seen = x if context is None else jnp.concatenate(self.promote(x, context), axis=1)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(seen)
        q, k, v = (split_heads(t, self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))

        scores = self._talk('mix_heads_pre_attn', attention_scores(q, k, self.dim_head**-0.5))
        weights = attention_map(self, scores, v.dtype, dropout=self.dropout, train=train)
        weights = self._talk('mix_heads_post_attn', weights)
        x = merge_heads(jnp.einsum('b e n m, b e m k -> b e n k', weights, v))

        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    def _talk(self, name: str, maps: Array) -> Array:
        mixture = self.param(name, normal(1.0), (self.heads, self.heads), self.param_dtype)
        return mix_heads(maps, mixture.astype(maps.dtype))

    torch_names = {'to_out': 'to_out.0'}


class CaiT(ViTBase, kw_only=True):
    """Class-attention in image Transformers (arXiv:2103.17239): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      depth: blocks in which patches attend to patches.
      cls_depth: blocks after them in which the class token attends to itself and the patches.
      layer_dropout: rate at which whole blocks are left out in training.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    cls_depth: int
    layer_dropout: float = 0.0
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_positions(self) -> int:
        return 0

    def setup(self) -> None:
        super().setup()
        self.cls_transformer = Transformer(self.cls_depth, self.block(), scan=self.scan, remat=self.remat)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(TalkingHeadsAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    def block(self) -> Callable[..., nn.Module]:
        layer_scale = partial(LayerScale, paper_layer_scale, **self.precision)
        return partial(LayerScaleBlock, self.attention(), self.feedforward(), layer_scale)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to patches with positions, `[b h w c] -> [b n d]`; the class token comes later."""
        x = self.embedding_dropout(self.add_positions(self.patch_tokens(images)), deterministic=not train)
        return self.tap('embedding', x)

    @property
    def num_prefix_tokens(self) -> int:
        return 0

    def token_grids(self, lengths: Sequence[int]) -> tuple[TokenGrid, ...]:
        # the class token joins in the blocks of class attention
        (patches,) = super().token_grids(lengths)
        return patches, replace(patches, prefix=1)

    def prefix_tokens(self) -> Array:
        return jnp.zeros((0, self.dim), self.param_dtype)

    def encode(self, tokens: Array, train: bool = False, keep_layers: Array | None = None) -> Array:
        """The blocks of the patches, `[b n d] -> [b n d]`."""
        return self._run(self.transformer, tokens, keep=keep_layers, train=train)

    def classify(self, tokens: Array, train: bool = False, keep_cls_layers: Array | None = None) -> Array:
        """The blocks of the class token, and the head, `[b n d] -> [b num_classes]`."""
        cls, tokens = self.promote(repeat(self.cls_token, '1 d -> b 1 d', b=tokens.shape[0]), tokens)
        cls = self._run(self.cls_transformer, cls, tokens, keep=keep_cls_layers, train=train)
        return self.mlp_head(self.tap('to_latent', cls[:, 0]))

    def _run(self, transformer: nn.Module, *inputs: Array, keep: Array | None, train: bool) -> Array:
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
          train: dropout.
          keep_layers: bool `[depth]`, which blocks run; drawn from the rng `drop_path` when training
            with `layer_dropout` and left out here (see `draw_layers`).
          keep_cls_layers: bool `[cls_depth]`, the same for the class token's blocks.
        """
        tokens = self.encode(self.embed(images, train), train, keep_layers)
        return self.classify(tokens, train, keep_cls_layers) if self.num_classes > 0 else tokens

    torch_names = {
        **BATCH_AXES,
        'transformer': 'patch_transformer',
        **{
            f'{ours}/block_{{i}}/{branch}_scale/scale': (f'{theirs}.layers.{{i}}.{number}.scale', UnitAxes((0, 1)))
            for ours, theirs in (('transformer', 'patch_transformer'), ('cls_transformer', 'cls_transformer'))
            for number, branch in enumerate(('attention', 'feedforward'))
        },
    }


def cait_size(dim: int, depth: int, image_size: int = 224) -> dict[str, Any]:
    """Keyword arguments of the paper's sizes: heads of width 48, two blocks of class attention."""
    return {**published_size(16, dim, depth, dim // 48, image_size), 'cls_depth': 2}


CARD = ModelCard(
    CaiT,
    title='Going deeper with Image Transformers',
    arxiv='2103.17239',
    takes='image [b h w c]',
    paper_size=cait_size(384, 24),
    presets={
        'cait_xxs24_224': cait_size(192, 24),
        'cait_xxs36_224': cait_size(192, 36),
        'cait_xs24_224': cait_size(288, 24),
        'cait_s24_224': cait_size(384, 24),
        'cait_s36_224': cait_size(384, 36),
        'cait_m36_384': cait_size(768, 36, 384),
        'cait_m48_448': cait_size(768, 48, 448),
    },
)
