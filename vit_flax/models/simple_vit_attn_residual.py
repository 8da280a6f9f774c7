"""Attention over depth instead of residual sums; vit-pytorch's `simple_vit_attn_residual`.

SimpleViT without a residual stream: each branch reads a mixture of everything before it, the
embedding and the outputs of all earlier branches, which each token forms by attention over that
history (the idea of Attention Residuals, arXiv:2603.15031).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.attention import attend, attention_map, merge_heads, split_heads
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import einsum_float32, repeat
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.blocks.transformer import SimpleFeedForward
from vit_flax.card import ModelCard
from vit_flax.models.simple_vit import SimpleViTBase
from vit_flax.models.vit import published_size


class Attention(Module):
    """Self-attention, `[b n d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dim, inner = x.shape[-1], self.heads * self.dim_head
        x = LayerNorm(**self.precision, name='norm')(x)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(x)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(x)
        q, k, v = (split_heads(t, self.heads) for t in (q, *jnp.split(kv, 2, axis=-1)))
        x = merge_heads(attend(self, q, k, v, scale=self.dim_head**-0.5))
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(x)


class DepthAttention(Module):
    """Each token attends to its own history, `[b n d], [b n l d] -> [b n d]`."""

    heads: int = 8
    dim_head: int = 64

    @nn.compact
    def __call__(self, query: Array, history: Array) -> Array:
        dim, inner = query.shape[-1], self.heads * self.dim_head
        query = LayerNorm(**self.precision, name='norm')(query)
        history = LayerNorm(**self.precision, name='norm_context')(history)
        q = Dense(inner, use_bias=False, **self.precision, name='to_q')(query)
        kv = Dense(2 * inner, use_bias=False, **self.precision, name='to_kv')(history)
        q = rearrange(q, 'b n (e k) -> b n e k', e=self.heads)
        k, v = (rearrange(t, 'b n l (e k) -> b n l e k', e=self.heads) for t in jnp.split(kv, 2, axis=-1))
        scores = self.dim_head**-0.5 * einsum_float32('b n e k, b n l e k -> b e n l', q, k)
        weights = attention_map(self, scores, v.dtype)
        x = jnp.einsum('b e n l, b n l e k -> b n e k', weights, v)
        return Dense(dim, use_bias=False, **self.precision, name='to_out')(rearrange(x, 'b n e k -> b n (e k)'))


class AttentionResidual(Module):
    """A branch on a mixture of the history, `[b n l d] -> [b n d]`.

    Attributes:
      branch: constructor of the branch.
      mixture: constructor of the attention over depth; None gives the branch the last of the history.
      learned_query: one learned query for all tokens, else each token's last state is its query.
    """

    branch: Callable[..., nn.Module]
    mixture: Callable[..., nn.Module] | None = None
    learned_query: bool = True

    @nn.compact
    def __call__(self, history: Array) -> Array:
        x = history[:, :, -1]
        if self.mixture is not None:
            if self.learned_query:
                query = self.param('learned_query', normal(1.0), x.shape[-1:], self.param_dtype)
                query, x = self.promote(query, x)
                x = repeat(query, 'd -> b n d', b=x.shape[0], n=x.shape[1])
            x = self.mixture(name='attn')(x, history)
        return self.branch(name='fn')(x)


class DepthTransformer(Module):
    """Blocks that attend over the history, `[b n l d] -> [b n l+2*depth d], [b n d]`: all states, last mixture."""

    depth: int
    heads: int
    dim_head: int
    mlp_dim: int
    learned_query: bool

    @nn.compact
    def __call__(self, history: Array) -> tuple[Array, Array]:
        mixture = partial(DepthAttention, self.heads, self.dim_head, **self.precision)
        attention = partial(Attention, self.heads, self.dim_head, **self.precision)
        feedforward = partial(SimpleFeedForward, self.mlp_dim, **self.precision)
        settings: dict[str, Any] = dict(learned_query=self.learned_query, **self.precision)
        for i in range(self.depth):
            for name, branch in (('attention', attention), ('feedforward', feedforward)):
                first = i == 0 and name == 'attention'
                x = AttentionResidual(branch, None if first else mixture, **settings, name=f'block_{i}_{name}')(history)
                history = jnp.concatenate([history, x[:, :, None]], axis=2)
            self.tap(f'block_{i}', x)
        norm = partial(LayerNorm, **self.precision)
        return history, AttentionResidual(norm, mixture, **settings, name='final_pool')(history)

    torch_names = {'block_{i}_attention': 'layers.{i}.0', 'block_{i}_feedforward': 'layers.{i}.1'}


class SimpleViTAttnResidual(SimpleViTBase, kw_only=True):
    """SimpleViT with attention over depth (no paper): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      learned_query: mixtures have one learned query, else the token's last state is the query.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    learned_query: bool = True

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    def trunk(self) -> nn.Module:
        return DepthTransformer(
            self.depth, self.heads, self.dim_head, self.mlp_dim, self.learned_query, **self.precision
        )

    def encode_with_history(self, tokens: Array, history: Sequence[Array] | Array = ()) -> tuple[Array, Array]:
        """Tokens after an earlier history: encoded `[b n d]`, and all states `[b n l d]`."""
        return self.transformer(jnp.stack([*history, tokens], axis=2))[::-1]

    def encode(self, tokens: Array, train: bool = False) -> Array:
        """The transformer, `[b n d] -> [b n d]`."""
        return self.encode_with_history(tokens)[0]

    def __call__(
        self,
        images: Array,
        train: bool = False,
        history: Sequence[Array] | Array = (),
        return_history: bool = False,
    ) -> Any:
        """Images to logits, or with `return_history` to logits and a list of states `[b n d]`.

        Args:
          images: `[b h w c]`.
          history: states `[b n d]` of an earlier pass that this one may read too.
          return_history: also return all states, the given ones first.
        """
        tokens, states = self.encode_with_history(self.embed(images, train), history)
        logits = self.classify(tokens, train) if self.num_classes > 0 else tokens
        return (logits, list(jnp.unstack(states, axis=2))) if return_history else logits


CARD = ModelCard(
    SimpleViTAttnResidual,
    title='Attention Residuals',
    arxiv='2603.15031',
    takes='image [b h w c]',
    paper_size=published_size(16, 384, 12, 6),
)
