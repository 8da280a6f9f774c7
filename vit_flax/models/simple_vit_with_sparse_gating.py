"""Sparse gating of attention; vit-pytorch's `simple_vit_with_sparse_gating`, without a paper.

SimpleViT with registers in front: a second, narrow set of queries and keys gives each pair of token
and patch the probability that it matters; its logarithm joins the score, and a loss keeps the
probabilities low. Registers are never gated.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from vit_flax.blocks.attention import attend, attention_scores, merge_heads, split_heads
from vit_flax.blocks.checks import check_choice
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import SimpleFeedForward
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit_with_register_tokens import WithRegisters
from vit_flax.models.vit import published_size


class Attention(Module):
    """Gated self-attention, `[b n d] -> [b n d]` and the gates `[b e n m]`, m the tokens that are no register."""

    heads: int = 8
    dim_head: int = 64
    dim_mask: int = 4
    num_register_tokens: int = 4

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        dim, inner, narrow = x.shape[-1], self.heads * self.dim_head, self.heads * self.dim_mask
        x = LayerNorm(**self.precision, name='norm')(x)
        projected = Dense(3 * inner + 2 * narrow, use_bias=False, **self.precision, name='to_qkv_and_mask')(x)
        ends = [inner, 2 * inner, 3 * inner, 3 * inner + narrow]
        q, k, v, q_mask, k_mask = (split_heads(t, self.heads) for t in jnp.split(projected, ends, axis=-1))
        k_mask = k_mask[:, :, self.num_register_tokens :]
        gates = jax.nn.sigmoid(attention_scores(q_mask, k_mask, self.dim_mask**-0.5))
        bias = jnp.pad(jnp.log(jnp.maximum(gates, 1e-20)), ((0, 0), (0, 0), (0, 0), (self.num_register_tokens, 0)))
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5, bias=bias))
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(x), gates


class GatedTransformer(Module):
    """Blocks with gated attention, `[b n d] -> [b n d]` and the average gate of each image `[b]`."""

    depth: int
    mlp_dim: int
    heads: int
    dim_head: int
    dim_mask: int
    num_register_tokens: int

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        average = jnp.zeros(x.shape[0], x.dtype)
        for i in range(self.depth):
            update, gates = Attention(
                self.heads,
                self.dim_head,
                self.dim_mask,
                self.num_register_tokens,
                **self.precision,
                name=f'block_{i}_attention',
            )(x)
            average = average + rearrange(gates, 'b e n m -> b (e n m)').mean(axis=1) / self.depth
            x = x + update
            x = x + SimpleFeedForward(self.mlp_dim, **self.precision, name=f'block_{i}_feedforward')(x)
            self.tap(f'block_{i}', x)
        return LayerNorm(**self.precision, name='norm')(x), average

    torch_names = {'block_{i}_attention': 'layers.{i}.0', 'block_{i}_feedforward': 'layers.{i}.1'}


class SimpleViTWithSparseGating(WithRegisters, kw_only=True):
    """SimpleViT with gated attention (no paper): images `[b h w c]` to logits `[b num_classes]`, and a loss if asked.

    Attributes:
      dim_mask: width of a head's gating queries and keys.
      sparsity_loss_type: 'l1', the average gate, or 'thresholded_l1', what of it exceeds the threshold.
      sparsity_threshold: average gate of an image that costs nothing.
    """

    dim_mask: int = 4
    sparsity_loss_type: str = 'thresholded_l1'
    sparsity_threshold: float = 0.05

    registers_first: ClassVar[bool] = True

    def setup(self) -> None:
        check_choice('sparsity_loss_type', self.sparsity_loss_type, ('l1', 'thresholded_l1'))
        super().setup()

    def trunk(self) -> nn.Module:
        return GatedTransformer(
            self.depth,
            self.mlp_dim,
            self.heads,
            self.dim_head,
            self.dim_mask,
            self.num_register_tokens,
            **self.precision,
        )

    def encode_with_gates(self, tokens: Array, train: bool = False) -> tuple[Array, Array]:
        """Registers and patches through the transformer: patches `[b n d]`, average gates `[b]`."""
        x = jnp.concatenate(self.promote(self.registers(tokens.shape[0]), tokens), axis=1)
        x, gates = self.transformer(x, train=train)
        return x[:, self.num_register_tokens :], gates

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer over registers, which are discarded, and patches, `[b n d] -> [b n d]`."""
        return self.encode_with_gates(tokens, train)[0]

    def __call__(self, images: Array, train: bool = False, return_loss: bool = False) -> Any:
        """Images to logits, with `return_loss` also the sparsity loss `[]`."""
        tokens, gates = self.encode_with_gates(self.embed(images, train), train)
        logits = self.classify(tokens, train) if self.num_classes > 0 else tokens
        if not return_loss:
            return logits
        if self.sparsity_loss_type == 'thresholded_l1':
            gates = jax.nn.relu(gates - self.sparsity_threshold)
        return logits, gates.mean()


CARD = ModelCard(
    SimpleViTWithSparseGating,
    title='SimpleViT with sparse gating',
    arxiv='',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
