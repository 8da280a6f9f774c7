"""Position Prediction as an Effective Pretraining Strategy, arXiv:2207.07611: its vision transformer.

vit-pytorch's `mp3`: a SimpleViT whose attention may take keys and values from other tokens, so that the
objective of the same name can hide some from it; with dropout, and the last norm in the head.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import FeedForward, Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class Attention(Module):
    """Attention of tokens to themselves, or to a context, which goes through the same norm, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        norm = LayerNorm(**self.precision, name='norm')
        x = norm(x)
        read = x if context is None else norm(context)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(read)
        q, k, v = (split_heads(part, self.heads) for part in (q, *jnp.split(kv, 2, axis=-1)))
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'to_out': 'to_out.0'}


class ViT(SimpleViTBase, kw_only=True):
    """ViT for position prediction (arXiv:2207.07611): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      dropout: rate after each projection and on the attention maps.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    dropout: float = 0.0
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(Attention, self.heads, self.dim_head, self.dropout, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        return partial(FeedForward, self.mlp_dim, self.dropout, **self.precision)

    def encode(self, tokens: Array, train: bool = False, context: Array | None = None) -> Array:
        """The transformer, `[b n d] -> [b n d]`; what all its blocks read instead, `[b m d]`, may be given."""
        return self.transformer(tokens, *(() if context is None else (context,)), train=train)


CARD = ModelCard(
    ViT,
    title='Position Prediction as an Effective Pretraining Strategy',
    arxiv='2207.07611',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
