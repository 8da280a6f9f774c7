"""All are Worth Words: A ViT Backbone for Diffusion Models, arXiv:2209.12152.

vit-pytorch's `simple_uvit`: SimpleViT with registers whose last blocks also read, through a linear
layer, what entered the first blocks, in the reverse order, as a U-Net does.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import SimpleAttention
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import BARE_SIMPLE_FEEDFORWARD, SimpleFeedForward
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit_with_register_tokens import WithRegisters
from vit_flax.models.vit import published_size


class UTransformer(Module):
    """Blocks with long skips around the middle, `[b n d] -> [b n d]`; an odd middle block has none."""

    depth: int
    heads: int
    dim_head: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        skips = []
        for i in range(self.depth):
            if i < self.depth // 2:
                skips.append(x)
            elif i >= (self.depth + 1) // 2:
                both = jnp.concatenate([skips.pop(), x], axis=-1)
                x = Dense(x.shape[-1], **self.precision, name=f'block_{i}_skip')(both)
            attention = SimpleAttention(self.heads, self.dim_head, **self.precision, name=f'block_{i}_attention')
            x = x + attention(x)
            x = x + SimpleFeedForward(self.mlp_dim, **self.precision, name=f'block_{i}_feedforward')(x)
            self.tap(f'block_{i}', x)
        return LayerNorm(**self.precision, name='norm')(x)

    torch_names = {
        'block_{i}_skip': 'layers.{i}.0',
        'block_{i}_attention': 'layers.{i}.1',
        'block_{i}_feedforward': ('layers.{i}.2', BARE_SIMPLE_FEEDFORWARD),
    }


class SimpleUViT(WithRegisters, kw_only=True):
    """SimpleViT with long skips (arXiv:2209.12152): images `[b h w c]` to logits `[b num_classes]`."""

    def trunk(self) -> nn.Module:
        return UTransformer(self.depth, self.heads, self.dim_head, self.mlp_dim, **self.precision)


CARD = ModelCard(
    SimpleUViT,
    title='All are Worth Words: A ViT Backbone for Diffusion Models',
    arxiv='2209.12152',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
