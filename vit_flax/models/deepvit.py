"""DeepViT: Towards Deeper Vision Transformer, arXiv:2103.11886.

vit-pytorch's `deepvit`: a ViT with re-attention. Deep layers of a ViT attend alike; here each
layer's maps are mixed across heads by a learned matrix and normalised before they are applied.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal, ones, zeros

from vit_flax.blocks.attention import attention_map, attention_scores, merge_heads, mix_heads, split_qkv
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size


class HeadNorm(Module):
    """LayerNorm over the heads of attention maps, `[b e n m] -> [b e n m]`; means are products, as in `mix_heads`."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, maps: Array) -> Array:
        heads = maps.shape[1]
        scale = self.param('scale', ones, (heads,), self.param_dtype)
        bias = self.param('bias', zeros, (heads,), self.param_dtype)
        wide = to_float32(maps)
        mean = jnp.full((heads, 1), 1 / heads, wide.dtype)
        centred = mix_heads(wide, jnp.eye(heads, dtype=wide.dtype) - mean)
        normed = centred * jax.lax.rsqrt(mix_heads(centred * centred, mean) + self.epsilon)
        normed = normed * to_float32(scale)[:, None, None] + to_float32(bias)[:, None, None]
        return self.cast(normed, maps, scale, bias)


class ReAttention(Module):
    """Self-attention whose heads are mixed after the softmax, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        q, k, v = split_qkv(Dense(3 * inner, use_bias=False, **self.precision, name='to_qkv')(x), self.heads)
        scores = attention_scores(q, k, self.dim_head**-0.5)
        weights = attention_map(self, scores, v.dtype, dropout=self.dropout, train=train)

        mixture = self.param('reattn_weights', normal(1.0), (self.heads, self.heads), self.param_dtype)
        weights = mix_heads(*self.promote(weights, mixture))
        # upstream: the mixed maps go through a LayerNorm over the heads, where the paper has a BatchNorm
        # of each head: with one head its output does not depend on the image.
        weights = HeadNorm(**self.precision, name='reattn_norm')(weights)
        x = merge_heads(jnp.einsum('b e n m, b e m k -> b e n k', weights, v))

        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)

    torch_names = {'reattn_norm': 'reattn_norm.1', 'to_out': 'to_out.0'}


class DeepViT(ViTBase, kw_only=True):
    """ViT with re-attention (arXiv:2103.11886): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      pool: 'cls' classifies the class token, 'mean' the average of all tokens.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    pool: str = 'cls'
    scan: bool = False
    remat: Remat = False

    norm_in_head = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(ReAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    torch_names = BATCH_AXES


def deepvit_size(depth: int) -> dict:
    """Keyword arguments of the paper's models by depth: three times as wide inside."""
    return {**published_size(16, 384, depth, 12), 'mlp_dim': 3 * 384}


CARD = ModelCard(
    DeepViT,
    title='DeepViT: Towards Deeper Vision Transformer',
    arxiv='2103.11886',
    takes='image [b h w c]',
    paper_size=deepvit_size(32),
    presets={f'deepvit_{depth}b_patch16_224': deepvit_size(depth) for depth in (16, 24, 32)},
)
