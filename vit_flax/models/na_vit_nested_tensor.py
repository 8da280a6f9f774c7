"""Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution, arXiv:2307.06304.

vit-pytorch's `na_vit_nested_tensor`: NaViT on PyTorch's nested tensors, which need no padding; here it
takes the same packed rows as `na_vit`. Queries and keys have a LayerNorm each, the patch embedding's
norms have biases, and the pooled vector has no residual.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from flax import linen as nn
from jax import Array, lax

from vit_flax.blocks.attention import split_heads
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.card import ModelCard
from vit_flax.models.na_vit import PackedAttention, PackedViTBase
from vit_flax.models.vit import published_size


class Attention(PackedAttention):
    """Queries and keys each through a LayerNorm without bias, which all heads share.

    Attributes:
      qk_norm: have these norms.
    """

    qk_norm: bool = True

    def project(self, x: Array, context: Array) -> tuple[Array, Array, Array]:
        projection = partial(Dense, self.heads * self.dim_head, use_bias=False, **self.precision)
        q, k, v = (
            split_heads(projection(name=name)(of), self.heads)
            for name, of in (('to_queries', x), ('to_keys', context), ('to_values', context))
        )
        if self.qk_norm:
            # upstream: what the argument calls an RMSNorm (`qk_rmsnorm`) is a LayerNorm, and the pooling attention has
            # it even where the argument says no.
            norm = partial(LayerNorm, use_bias=False, **self.precision)
            q, k = norm(name='query_norm')(q), norm(name='key_norm')(k)
        return q, k, v


class NestedViTBase(PackedViTBase, kw_only=True):
    """NaViT as upstream computes it on nested tensors, whatever the axes of its input.

    Attributes:
      qk_rmsnorm: normalise queries and keys of the blocks.
      train_embedding: let gradients reach the patch embedding, the positions and the pooling
        queries, and the images; upstream's cut them off.
    """

    qk_rmsnorm: bool = True
    train_embedding: bool = False

    # upstream: in training, token_dropout_prob=None (the default) raises a TypeError. Here nothing is left out then.

    def norm(self, width: int) -> Callable[..., Any]:
        return partial(LayerNorm, use_bias=False)

    def patch_norm(self, width: int) -> Callable[..., Any]:
        return LayerNorm

    def attention(self) -> Callable[..., nn.Module]:
        return partial(self.pool_attention(), qk_norm=self.qk_rmsnorm)

    def pool_attention(self) -> Callable[..., nn.Module]:
        return partial(Attention, self.heads, self.dim_head, norm=self.norm(self.dim))

    def tokens_kept(self, tokens: int, rate: float) -> int:
        # upstream: the share that stays is multiplied in single precision, so that at a rate of 0.9 ten of a hundred
        # patches stay, where `na_vit` keeps nine.
        return max(1, int(np.float32(tokens) * np.float32(1 - rate)))

    def stop_gradients(self, x: Array) -> Array:
        # upstream: torch.nested.nested_tensor makes tensors without a history, so that patch embedding, positions,
        # registers and the pooling queries get no gradient and stay as they are drawn.
        # `train_embedding=True` trains them, as the paper does.
        return x if self.train_embedding else lax.stop_gradient(x)


class NaViT(NestedViTBase, kw_only=True):
    """NaViT (arXiv:2307.06304) of nested tensors: packed images of any size to logits `[b i num_classes]`.

    Attributes:
      image_size: height and width of the largest images in pixels, or one number for both: its patches have
        positions.
      patch_size: height and width of a patch.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)


CARD = ModelCard(
    NaViT,
    title="Patch n' Pack: NaViT, a Vision Transformer for any Aspect Ratio and Resolution",
    arxiv='2307.06304',
    takes='packed images, or image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
)
