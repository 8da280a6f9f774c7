"""Decoupling the "What" and "Where" With Polar Coordinate Positional Embeddings, arXiv:2509.10534.

vit-pytorch's `vit_nd_pope`: `vit_nd_rotary` with polar instead of rotary positions. Each channel of a
query or key is a point whose distance from the centre says what (its softplus), and whose angle says
where, so that a head is twice as wide as it is declared. A learned angle is added for the keys.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import Initializer, zeros

from vit_flax.blocks.rotary import golden_gate_frequencies, grid_angles
from vit_flax.card import ModelCard
from vit_flax.models.vit_nd_rotary import PlacedAttention, PositionedViTBase, published_size


class PolarAttention(PlacedAttention):
    """Queries and keys as polar coordinates, of length softplus(x)."""

    # upstream: queries and keys are twice as wide as `dim_head`, the scale is that of `dim_head`.
    def position(self, q: Array, k: Array, positions: tuple[Array, ...]) -> tuple[Array, Array]:
        of_queries, of_keys = positions[:2], positions[2:]
        return to_points(q, *of_queries), to_points(k, *of_keys)


def to_points(x: Array, cos: Array, sin: Array) -> Array:
    """Lengths and directions to coordinates, `[b e n k], [e n k] -> [b e n 2k]`."""
    length = jax.nn.softplus(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    return jnp.concatenate([length * cos, length * sin], axis=-1).astype(x.dtype)


def uniform_angle(key, shape, dtype=jnp.float32, out_sharding=None) -> Array:
    """U(-2 pi, 0)."""
    return jax.random.uniform(key, shape, dtype, -2 * math.pi, 0.0, out_sharding=out_sharding)


class ViTND(PositionedViTBase, kw_only=True):
    """ViT of n axes with polar positions (arXiv:2509.10534): `[b *grid c]` to logits `[b num_classes]`.

    Attributes:
      pope_min_freq: lowest frequency, in radians for each patch.
      pope_max_freq: highest.
      pope_p_zero_freqs: share of the channels that do not turn.
      pope_init_learned_bias_uniform: draw the keys' angles from all directions instead of starting at zero.
    """

    pope_min_freq: float = 1.0
    pope_max_freq: float = 10000.0
    pope_p_zero_freqs: float = 0.0
    pope_init_learned_bias_uniform: bool = False

    def setup(self) -> None:
        # upstream: the frequencies are a buffer in float32, which the state dict has twice, as it has the learned
        # angle; here they are a constant of the model's variables, which holds what the state dict holds.
        self.freqs = self.variable('constants', 'freqs', self.frequencies)
        # upstream: `pope_init_learned_bias_uniform=True` raises a RuntimeError; here it does what it says.
        init: Initializer = uniform_angle if self.pope_init_learned_bias_uniform else zeros
        self.learned_bias = self.param('learned_bias', init, (self.heads, self.dim_head), self.param_dtype)
        super().setup()

    def frequencies(self) -> Array:
        """Turn of each channel for a step along each axis, `[e k axes]`."""
        rates = self.pope_min_freq, self.pope_max_freq, self.pope_p_zero_freqs
        return jnp.asarray(golden_gate_frequencies(self.heads, self.dim_head, self.ndim, *rates), jnp.float32)

    def positions(self, grid: Sequence[int]) -> tuple[Array, ...]:
        angles = grid_angles(grid, self.freqs.value)
        # not clip: at its bounds, where the bias begins, that has half a gradient in JAX and a whole one in torch
        bias = self.learned_bias.astype(angles.dtype)
        bias = jnp.where(bias > 0, 0.0, jnp.where(bias < -2 * math.pi, -2 * math.pi, bias))[:, None]
        return jnp.cos(angles), jnp.sin(angles), jnp.cos(angles + bias), jnp.sin(angles + bias)

    def attention(self) -> Callable[..., nn.Module]:
        return partial(PolarAttention, self.heads, self.dim_head, self.dropout, **self.precision)

    torch_names = {'freqs': 'polar_emb.freqs', 'learned_bias': 'polar_emb.learned_bias'}
    torch_ties = {
        'freqs': lambda model: ['transformer.polar_emb.freqs'],
        'learned_bias': lambda model: ['transformer.polar_emb.learned_bias'],
    }


CARD = ModelCard(
    ViTND,
    title='Decoupling the "What" and "Where" With Polar Coordinate Positional Embeddings',
    arxiv='2509.10534',
    takes='n-d [b *grid c]',
    paper_size=published_size(),
)
