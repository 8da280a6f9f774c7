"""Attention Residuals, arXiv:2603.15031, with the separate mixtures of DeepCrossAttention, arXiv:2502.06785.

vit-pytorch's `attn_residual_with_dca_simple_vit`: SimpleViT whose blocks mix the outputs of all
blocks before them, by softmax against learned pseudo-queries, apart for queries, keys and values;
the mixture for the values is also the residual stream. Attention heads have sigmoid gates.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import zeros

from vit_flax.blocks.attention import attend, merge_heads, split_heads
from vit_flax.blocks.checks import check_divisible
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import PatchEmbedding
from vit_flax.blocks.positions import sincos_2d
from vit_flax.blocks.precision import add, einsum_float32, multiply, to_float32
from vit_flax.blocks.torch_like import Dense, LayerNorm, MeanSquareNorm, gelu, uniform_by_fan_in
from vit_flax.blocks.transformer import BARE_SIMPLE_FEEDFORWARD, SimpleFeedForward
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class DepthMixture(Module):
    """Mixtures of a history by learned pseudo-queries, `[l b n d] -> [s g b n d]`.

    Attributes:
      streams: mixtures for different uses (s).
      heads: mixtures for the heads of one use (g).
    """

    streams: int
    heads: int
    epsilon: float

    @nn.compact
    def __call__(self, history: Array) -> Array:
        keys = MeanSquareNorm(self.epsilon, **self.precision, name='norm')(history)
        shape = (self.streams, self.heads, history.shape[-1])
        queries = self.param('pseudo_queries', zeros, shape, self.param_dtype)
        keys, queries, history = self.promote(keys, queries, history)
        scores = einsum_float32('l b n d, s g d -> s g b n l', keys, queries)
        weights = jax.nn.softmax(scores, axis=-1)
        return jnp.einsum('s g b n l, l b n d -> s g b n d', weights.astype(history.dtype), history)


class GroupedDense(Module):
    """A linear map whose output is in groups, each of an input of its own, `[g b n d] -> [b n (g f)]`."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        groups, dim = x.shape[0], x.shape[-1]
        kernel = self.param('kernel', uniform_by_fan_in(dim), (dim, self.features), self.param_dtype)
        if groups > 1:
            x, split = self.promote(x, rearrange(kernel, 'd (g f) -> g d f', g=groups))
            x = rearrange(jnp.einsum('g b n d, g d f -> b n g f', x, split), 'b n g f -> b n (g f)')
        else:
            x, kernel = self.promote(x[0], kernel)
            x = x @ kernel
        if not self.use_bias:
            return x
        start = zeros if groups > 1 else uniform_by_fan_in(dim)
        x, bias = self.promote(x, self.param('bias', start, (self.features,), self.param_dtype))
        return add(x, bias)


class Attention(Module):
    """Attention whose queries, keys and values come from three mixtures, `3 x [g b n d] -> [b n d]`.

    Attributes:
      gate: a sigmoid gate on each head's output, from the mixture for the queries.
    """

    heads: int
    dim_head: int
    gate: bool
    epsilon: float

    @nn.compact
    def __call__(self, for_q: Array, for_k: Array, for_v: Array) -> Array:
        norm = partial(MeanSquareNorm, self.epsilon, **self.precision)
        project = partial(GroupedDense, self.heads * self.dim_head, use_bias=False, **self.precision)
        for_q, for_k, for_v = norm(name='norm_q')(for_q), norm(name='norm_k')(for_k), norm(name='norm_v')(for_v)
        q, k, v = project(name='to_q')(for_q), project(name='to_k')(for_k), project(name='to_v')(for_v)
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        x = attend(self, q, k, v, scale=self.dim_head**-0.5)
        if self.gate:
            gates = GroupedDense(self.heads, use_bias=False, **self.precision, name='to_gate')(for_q)
            x = multiply(x, rearrange(jax.nn.sigmoid(to_float32(gates)), 'b n e -> b e n 1'))
        return Dense(for_q.shape[-1], use_bias=False, **self.precision, name='to_out')(merge_heads(x))

    torch_names = {'to_gate': 'to_gate.0'}


class FeedForward(Module):
    """LayerNorm, Linear in groups, GELU, Linear, `[g b n d] -> [b n d]`."""

    hidden_dim: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim = x.shape[-1]
        x = LayerNorm(**self.precision, name='norm')(x)
        x = gelu(GroupedDense(self.hidden_dim, **self.precision, name='expand')(x))
        return Dense(dim, **self.precision, name='contract')(x)

    torch_names = BARE_SIMPLE_FEEDFORWARD


class DepthBlock(Module):
    """One block on a history, `[l b n d] -> [b n d]`.

    Attributes:
      per_head: each attention head has mixtures of its own.
      ffn_heads: groups of the feed-forward network's input, each with a mixture of its own.
    """

    heads: int
    dim_head: int
    mlp_dim: int
    per_head: bool
    ffn_heads: int
    gate: bool
    epsilon: float

    @nn.compact
    def __call__(self, history: Array) -> Array:
        groups = self.heads if self.per_head else 1
        mixed = DepthMixture(3, groups, self.epsilon, **self.precision, name='attn_res')(history)
        attention = Attention(self.heads, self.dim_head, self.gate, self.epsilon, **self.precision, name='attn')
        x = attention(*mixed) + mixed[2].mean(axis=0)
        inputs = x[None]
        if self.ffn_heads > 1:
            history = jnp.concatenate([history, inputs])
            mixture = DepthMixture(1, self.ffn_heads, self.epsilon, **self.precision, name='ffn_res')
            inputs = mixture(history)[0]
        x = x + FeedForward(self.mlp_dim, **self.precision, name='ff')(inputs)
        return self.tap('block', x)


class DepthTransformer(Module):
    """Blocks that each read all before it, `[2 b n d] -> [b n d]`."""

    depth: int
    block: partial
    epsilon: float

    @nn.compact
    def __call__(self, history: Array) -> Array:
        for i in range(self.depth):
            x = self.block(name=f'block_{i}')(history)
            history = jnp.concatenate([history, x[None]])
        return MeanSquareNorm(self.epsilon, **self.precision, name='norm')(history[-1])

    torch_names = {'block_{i}': 'layers.{i}'}


class SimpleViT(SimpleViTBase, kw_only=True):
    """SimpleViT with attention residuals (arXiv:2603.15031): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      per_head: each attention head has mixtures of its own.
      ffn_heads: groups of the feed-forward networks' inputs, each with a mixture of its own; divides `mlp_dim`.
      gate: a sigmoid gate on each head's output.
      eps: of the RMSNorms.
      temperature: of the position table.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    per_head: bool = False
    ffn_heads: int = 1
    gate: bool = True
    eps: float = 1e-6
    temperature: float = 10000

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def setup(self) -> None:
        check_divisible('mlp_dim', self.mlp_dim, 'ffn_heads', self.ffn_heads)
        super().setup()
        self.initial_ff = SimpleFeedForward(self.mlp_dim, **self.precision)

    def patch_embedding(self) -> nn.Module:
        norm = partial(LayerNorm, use_bias=False)
        return PatchEmbedding(self.patch_size, self.dim, norm, **self.precision)

    def positions(self, *grid: int) -> np.ndarray:
        rows, columns = grid
        return sincos_2d(rows, columns, self.dim, self.temperature)

    def trunk(self) -> nn.Module:
        block = partial(
            DepthBlock,
            self.heads,
            self.dim_head,
            self.mlp_dim,
            self.per_head,
            self.ffn_heads,
            self.gate,
            self.eps,
            **self.precision,
        )
        return DepthTransformer(self.depth, block, self.eps, **self.precision)

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer on the tokens and a feed-forward network of them, `[b n d] -> [b n d]`."""
        return self.transformer(jnp.stack(self.promote(tokens, self.initial_ff(tokens))))

    torch_names = {'initial_ff': ('initial_ff', BARE_SIMPLE_FEEDFORWARD)}


CARD = ModelCard(
    SimpleViT,
    title='Attention Residuals',
    arxiv='2603.15031',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
