"""ViT-5: Vision Transformers for The Mid-2020s, arXiv:2602.08071.

vit-pytorch's `vit_5`: a ViT with what five years brought: RMSNorm, also on queries and keys,
LayerScale, register tokens, and rotary beside learned positions. Registers turn by their number,
fast; the class token does not.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import Attention, attend, merge_heads, split_qkv
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.layer_scale import LayerScale, LayerScaleBlock
from vit_flax.blocks.norms import RMSNorm
from vit_flax.blocks.patches import PatchProjection
from vit_flax.blocks.rotary import axial_angles, rotate
from vit_flax.blocks.torch_like import Dense
from vit_flax.blocks.transformer import Remat, Transformer
from vit_flax.card import ModelCard
from vit_flax.models.vit import ViTBase, published_size


class RotaryAttention(Attention):
    """Self-attention with normalised, then turned queries and keys, `[b n d] -> [b n d]`."""

    norm: Callable[..., Any] = RMSNorm

    @nn.compact
    def __call__(self, x: Array, angles: Array | None = None, train: bool = False) -> Array:
        """Args: x `[b n d]`; angles `[n a]`."""
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = self.norm(**self.precision, name='norm')(x)
        qkv = Dense(3 * inner, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = split_qkv(qkv, self.heads)
        q, k = (self.norm(**self.precision, name=f'{name}_norm')(t) for name, t in (('q', q), ('k', k)))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        x = attend(self, q, k, v, scale=self.dim_head**-0.5, dropout=self.dropout, train=train)
        x = merge_heads(x)
        if not self.projects(dim):
            return x
        x = Dense(dim, **self.precision, name='to_out')(x)
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train)


def small_scale(layer: Array) -> float:
    """Every LayerScale starts at 1e-4."""
    return 1e-4


class ViT(ViTBase, kw_only=True):
    """ViT-5 (arXiv:2602.08071): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      dim_head: width of one head, a multiple of 4.
      num_registers: learned tokens that take part and are not classified.
      scan: compile one block for all layers, with their parameters stacked along a leading axis.
      remat: recompute activations in the backward pass: 'none', 'dots', 'block_inputs' or 'full', which is True; see
        `vit_flax.blocks.transformer.Remat`.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    num_registers: int = 4
    scan: bool = False
    remat: Remat = False

    can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.num_registers

    @property
    def num_prefix_positions(self) -> int:
        return self.num_prefix_tokens

    def setup(self) -> None:
        if self.dim_head % 4:
            raise ValueError(f'dim_head={self.dim_head} must be a multiple of 4: pairs of channels turn along two axes')
        super().setup()
        if self.num_registers:
            shape = self.num_registers, self.dim
            self.register_tokens = self.param('register_tokens', self.token_init(), shape, self.param_dtype)
        # upstream: the frequencies are buffers of the state dict, in float32; here they are constants of the
        # model's variables, which hold what the state dict holds.
        of_patches = partial(frequencies, self.dim_head // 2, 100_000)
        of_registers = partial(frequencies, self.dim_head, 100)
        self.patch_inv_freq = self.variable('constants', 'patch_inv_freq', of_patches)
        self.reg_inv_freq = self.variable('constants', 'reg_inv_freq', of_registers)

    def patch_embedding(self) -> nn.Module:
        return PatchProjection(self.patch_size, self.dim, **self.precision)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(RotaryAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    def feedforward(self) -> Callable[..., nn.Module]:
        return partial(super().feedforward(), norm=RMSNorm)

    def block(self) -> Callable[..., nn.Module]:
        return partial(
            LayerScaleBlock, self.attention(), self.feedforward(), partial(LayerScale, small_scale, **self.precision)
        )

    def trunk(self) -> nn.Module:
        norm = partial(RMSNorm, **self.precision)
        return Transformer(self.depth, self.block(), norm, scan=self.scan, remat=self.remat)

    def embed(self, images: Array, train: bool = False) -> Array:
        """Images to tokens with positions, `[b h w c] -> [b n d]`: class token, registers, patches."""
        x = self.patch_tokens(images)
        if self.num_registers:
            x = self.prepend(self.register_tokens, x)
        x = self.add_positions(self.prepend(self.cls_token, x))
        return self.tap('embedding', self.embedding_dropout(x, deterministic=not train))

    def prefix_tokens(self) -> Array:
        tokens = [self.cls_token, self.register_tokens] if self.num_registers else [self.cls_token]
        return jnp.concatenate(tokens) + self.pos_embedding[: self.num_prefix_positions]

    def angles(self, rows: int, columns: int) -> Array:
        """By how much the channels of each token turn, `[1 + num_registers + rows * columns, dim_head / 2]`."""
        of_patches, of_registers = self.patch_inv_freq.value, self.reg_inv_freq.value
        registers, *positions = (
            jnp.arange(steps, dtype=of_patches.dtype) for steps in (self.num_registers, rows, columns)
        )
        angles = jnp.concatenate([axial_angles([registers], of_registers), axial_angles(positions, of_patches)])
        return jnp.pad(angles, ((1, 0), (0, 0)))

    def encode(self, tokens: Array, train: bool = False, grid: Sequence[int] | None = None) -> Array:
        """The transformer, `[b n d] -> [b n d]`; `grid` of the patches, that of `image_size` if None."""
        angles = self.angles(*(grid or self.grid.shape))
        return self.transformer(tokens, angles, train=train, layer=jnp.arange(self.depth))

    def __call__(self, images: Array, train: bool = False) -> Array:
        tokens = self.embed(images, train)
        tokens = self.encode(tokens, train, self.grid.shape_of(images))
        return self.classify(tokens, train) if self.num_classes > 0 else tokens

    torch_names = {
        'transformer/block_{i}/attention': 'transformer.layers.{i}.0',
        'transformer/block_{i}/attention_scale/scale': 'transformer.ls1.{i}',
        'transformer/block_{i}/feedforward': 'transformer.layers.{i}.1',
        'transformer/block_{i}/feedforward_scale/scale': 'transformer.ls2.{i}',
        'patch_inv_freq': 'rotary_emb.patch_inv_freq',
        'reg_inv_freq': 'rotary_emb.reg_inv_freq',
    }


def frequencies(width: int, base: float) -> Array:
    """Angle for each step of a position, of `width` channels in pairs, `[width / 2]`: from 1 down to about 1 / base."""
    return jnp.float32(base) ** -(jnp.arange(0, width, 2, dtype=jnp.float32) / width)


CARD = ModelCard(
    ViT,
    title='ViT-5: Vision Transformers for The Mid-2020s',
    arxiv='2602.08071',
    takes='image [b h w c]',
    paper_size=published_size(16, 768, 12, 12),
    presets={
        'vit_5_small_patch16_224': published_size(16, 384, 12, 6),
        'vit_5_base_patch16_224': published_size(16, 768, 12, 12),
        'vit_5_large_patch16_224': published_size(16, 1024, 24, 16),
    },
)
