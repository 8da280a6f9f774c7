"""Adaptive Token Sampling For Efficient Vision Transformers, arXiv:2111.15667.

vit-pytorch's `ats_vit`: layers keep only some of the patches, sampled by how much the class token
attends to them and how long their values are. Tokens sampled twice are kept once, so that each image
keeps its own number. Here a layer always has `1 + max_tokens_per_depth[i]` positions and a mask of those
in use: used positions stand first, in order, and what stands in the others never reaches an output.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from vit_flax.blocks.attention import attend, attention_scores, merge_heads, split_heads
from vit_flax.blocks.grids import Grid, image_grid
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm
from vit_flax.card import ModelCard
from vit_flax.models.vit import BATCH_AXES, ViTBase, published_size

TokenNoise = Sequence[Array | None]


def draw_token_noise(rng: Array, batch: int, patches: int, max_tokens_per_depth: Sequence[int]) -> TokenNoise:
    """Gumbel noise for each layer, `[b k n]` to draw k of the n patches left, None where all are kept."""
    noise: list[Array | None] = []
    for key, kept in zip(jax.random.split(rng, len(max_tokens_per_depth)), max_tokens_per_depth, strict=True):
        noise.append(jax.random.gumbel(key, (batch, kept, patches)) if kept < patches else None)
        patches = min(patches, kept)
    return tuple(noise)


def drawn_tokens(significance: Array, mask: Array | None, noise: Array) -> Array:
    """Samples by the Gumbel-max trick, `[b n], [b k n] -> [b k]`."""
    share = significance / (significance.sum(axis=-1, keepdims=True) + 1e-6)
    logits = jnp.log(share + 1e-6)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min / 2)
    return jnp.argmax(logits[:, None] + noise, axis=-1)


def fixed_tokens(significance: Array, samples: int) -> Array:
    """Samples at 1/2k, 3/2k, ... of the cumulated significance, `[b n] -> [b k]`."""
    cumulated = jnp.cumsum(significance, axis=-1)[:, None]
    positions = (jnp.arange(samples) + 0.5) / samples
    return (cumulated < positions[:, None] * cumulated[..., -1:]).sum(axis=-1)


def keep_tokens(significance: Array, mask: Array | None, samples: int, noise: Array | None) -> tuple[Array, Array]:
    """Which patches stay.

    Args:
      significance: `[b n]`, zero for positions out of use.
      mask: bool `[b n]`, the positions in use; None for all.
      samples: most samples that stay.
      noise: `[b k n]` to draw them; None takes the fixed samples.

    Returns:
      int `[b k]`, the patches that stay in their order, and bool `[b k]`, the positions in use.
    """
    picks = fixed_tokens(significance, samples) if noise is None else drawn_tokens(significance, mask, noise)
    chosen = (picks[..., None] == jnp.arange(significance.shape[-1])).any(axis=1)
    if mask is not None:
        crowded = mask.sum(axis=-1, keepdims=True) > samples
        # upstream: whether a layer samples at all is decided by the image of the batch with most tokens left. So
        # it is here with noise; the fixed samples leave an image alone whose tokens fit, whatever its batch.
        chosen = jnp.where(crowded if noise is None else crowded.any(), chosen, mask)
    order = jnp.argsort(~chosen, axis=-1, stable=True)[:, :samples]
    return order, jnp.arange(samples) < chosen.sum(axis=-1, keepdims=True)


class Attention(Module):
    """Self-attention of the tokens that stay to all, `[b 1+n d] -> [b 1+k d]`."""

    max_tokens: int
    heads: int = 8
    dim_head: int = 64
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, mask: Array | None = None, noise: Array | None = None, train: bool = False
    ) -> tuple[Array, Array | None, Array | None]:
        """Attends.

        Args:
          x: class token first.
          mask: bool `[b 1+n]`, positions in use.
          noise: see `keep_tokens`.
          train: dropout.

        Returns:
          the branch's output; int `[b 1+k]`, where its tokens stood in x, None if all stay; the new mask.
        """
        _, tokens, dim = x.shape
        scale = self.dim_head**-0.5
        x = LayerNorm(**self.precision, name='norm')(x)
        qkv = Dense(3 * self.heads * self.dim_head, use_bias=False, **self.precision, name='to_qkv')(x)
        q, k, v = (split_heads(t, self.heads) for t in jnp.split(qkv, 3, axis=-1))
        keys, stay = (None if mask is None else mask[:, None, None]), None
        if self.max_tokens < tokens - 1:
            significance = self._significance(q[:, :, :1], k, v, keys)
            patches = None if mask is None else mask[:, 1:]
            order, in_use = keep_tokens(significance, patches, self.max_tokens, noise)
            # the class token stays, and stands in for what is not there
            stay = jnp.pad(jnp.where(in_use, order + 1, 0), ((0, 0), (1, 0)))
            mask = jnp.pad(in_use, ((0, 0), (1, 0)), constant_values=True)
            q = jnp.take_along_axis(q, stay[:, None, :, None], axis=2)
        x = attend(self, q, k, v, scale=scale, mask=keys, dropout=self.dropout, train=train)
        x = Dense(dim, **self.precision, name='to_out')(merge_heads(x))
        return nn.Dropout(self.dropout, name='dropout')(x, deterministic=not train), stay, mask

    def _significance(self, q: Array, k: Array, v: Array, keys: Array | None) -> Array:
        """The class token's attention to each patch times the length of its value, summed over heads, `[b n]`."""
        scores = attention_scores(q, k, self.dim_head**-0.5)
        if keys is not None:
            scores = jnp.where(keys, scores, jnp.finfo(scores.dtype).min)
        attention = jax.nn.softmax(scores, axis=-1)[:, :, 0]
        lengths = jnp.sqrt((v.astype(scores.dtype) ** 2).sum(axis=-1))
        return lax.stop_gradient((attention * lengths).sum(axis=1)[:, 1:])

    torch_names = {'to_out': 'to_out.0'}


class SamplingTransformer(Module):
    """Blocks that keep fewer and fewer tokens, `[b 1+n d] -> [b 1+m d]`."""

    attentions: Sequence[Callable[..., nn.Module]]
    feedforward: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, noise: TokenNoise | None = None, train: bool = False) -> tuple[Array, Array]:
        """Returns the tokens, and int `[b 1+m]`, where each stood at first (0 if it is not there)."""
        batch, tokens, _ = x.shape
        ids = jnp.tile(jnp.arange(tokens), (batch, 1))
        mask = None
        for i, attention in enumerate(self.attentions):
            of_layer = None if noise is None else noise[i]
            y, stay, mask = attention(name=f'attention_{i}')(x, mask, of_layer, train=train)
            if stay is not None:
                x = jnp.take_along_axis(x, stay[..., None], axis=1)
                ids = jnp.take_along_axis(ids, stay, axis=1)
            x = x + y
            x = x + self.feedforward(name=f'feedforward_{i}')(x, train=train)
            self.tap('block', x)
        return x, ids

    torch_names = {'attention_{i}': 'layers.{i}.0', 'feedforward_{i}': 'layers.{i}.1'}


class ViT(ViTBase, kw_only=True):
    """ViT with adaptive token sampling (arXiv:2111.15667): images `[b h w c]` to logits `[b num_classes]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
      max_tokens_per_depth: how many patches each block may keep, one number for each block, falling. A block
        that has no more than that keeps all.

    Raises:
      ValueError: as ViT, or `max_tokens_per_depth` is of another length, rises or holds a zero.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]
    max_tokens_per_depth: Sequence[int]

    norm_in_head = True
    # its blocks drop tokens that an objective may ask for
    can_embed_patches = can_drop_tokens = False

    @property
    def grid(self) -> Grid:
        return image_grid(self.image_size, self.patch_size, self.channels)

    torch_names = BATCH_AXES

    def setup(self) -> None:
        kept = list(self.max_tokens_per_depth)
        if len(kept) != self.depth or min(kept, default=1) < 1 or sorted(kept, reverse=True) != kept:
            raise ValueError(
                f'max_tokens_per_depth={tuple(kept)} must hold depth={self.depth} numbers, '
                'each at least 1 and none larger than the one before'
            )
        super().setup()

    def trunk(self) -> nn.Module:
        attention = partial(Attention, heads=self.heads, dim_head=self.dim_head, dropout=self.dropout, **self.precision)
        attentions = [partial(attention, kept) for kept in self.max_tokens_per_depth]
        return SamplingTransformer(attentions, self.feedforward(), **self.precision)

    def encode(self, tokens: Array, train: bool = False, token_noise: TokenNoise | None = None) -> Array:
        """The blocks, `[b 1+n d] -> [b 1+m d]`."""
        return self._sample(tokens, train, token_noise)[0]

    def _sample(self, tokens: Array, train: bool, token_noise: TokenNoise | None) -> tuple[Array, Array]:
        """The encoded tokens, and int `[b 1+m]`, where each stood at first."""
        # upstream: Gumbel noise decides which tokens stay in evaluation too, so that no two calls agree. Here it is
        # an argument or, in training, drawn from the rng `tokens`; without either the paper's fixed samples of
        # the inverse transform are taken.
        if token_noise is None and train and self.has_rng('tokens'):
            batch, positions, _ = tokens.shape
            token_noise = draw_token_noise(self.make_rng('tokens'), batch, positions - 1, self.max_tokens_per_depth)
        if token_noise is not None and len(token_noise) != self.depth:
            raise ValueError(
                f'token_noise holds {len(token_noise)} entries and must hold depth={self.depth}: '
                'see vit_flax.models.ats_vit.draw_token_noise'
            )
        return self.transformer(tokens, token_noise, train=train)

    def __call__(
        self,
        images: Array,
        train: bool = False,
        return_sampled_token_ids: bool = False,
        token_noise: TokenNoise | None = None,
    ) -> Any:
        """Images to logits.

        Args:
          images: `[b h w c]`.
          train: dropout, and noise from the rng `tokens` if there is one.
          return_sampled_token_ids: also return int `[b m]`, the patches that the last block has left, counted
            from 0 in their order, and -1 in places out of use.
          token_noise: Gumbel noise for each block (see `draw_token_noise`).
        """
        tokens, ids = self._sample(self.embed(images, train), train, token_noise)
        logits = self.classify(tokens, train) if self.num_classes > 0 else tokens
        return (logits, ids[:, 1:] - 1) if return_sampled_token_ids else logits


CARD = ModelCard(
    ViT,
    title='Adaptive Token Sampling For Efficient Vision Transformers',
    arxiv='2111.15667',
    takes='image [b h w c]',
    # the paper's DeiT-S: sampling from the fourth block on
    paper_size=published_size(16, 384, 12, 6) | dict(max_tokens_per_depth=(197,) * 3 + (108,) * 9),
)
