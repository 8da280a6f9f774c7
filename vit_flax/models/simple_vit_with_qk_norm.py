"""Scaling Vision Transformers to 22 Billion Parameters, arXiv:2302.05442.

vit-pytorch's `simple_vit_with_qk_norm`: SimpleViT whose queries and keys are normalised in each
head, which keeps the attention scores bounded at large learning rates.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, merge_heads, split_qkv
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.norms import HeadRMSNorm
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import Remat
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class Attention(Module):
    """Self-attention with normalised queries and keys, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * inner, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        # so that both together start as the usual scale
        norm = partial(HeadRMSNorm, self.dim_head**-0.5, **self.precision)
        x = attend(self, norm(name='q_norm')(q), norm(name='k_norm')(k), v, scale=1.0)
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(merge_heads(x))


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with query-key normalisation (arXiv:2302.05442): images `[b h w c]` to `[b dim]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      classifier: end in a linear layer to `num_classes` logits; upstream ends in a LayerNorm.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    classifier: bool = False
    scan: bool = False
    remat: Remat = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def head(self) -> tuple[str, ...]:
        return super().head if self.classifier else ()

    def attention(self) -> Callable[..., nn.Module]:
        return partial(Attention, self.heads, self.dim_head, **self.precision)

    def classification_head(self) -> nn.Module:
        # upstream: the head is a LayerNorm instead of a linear layer, so the model returns [b dim] and never
        # uses num_classes; `classifier=True` gives logits.
        return super().classification_head() if self.classifier else LayerNorm(**self.precision)


CARD = ModelCard(
    SimpleViT,
    title='Scaling Vision Transformers to 22 Billion Parameters',
    arxiv='2302.05442',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
    presets={'simple_vit_22b_patch14_224': published_size(14, 6144, 48, 48) | {'mlp_dim': 24576, 'dim_head': 128}},
)
