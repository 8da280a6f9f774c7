"""Normalisations by length; LayerNorm and BatchNorm stand in torch_like."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant, ones, zeros

from vit_flax.blocks.module import Module
from vit_flax.blocks.precision import to_float32
from vit_flax.blocks.torch_like import LayerNorm


def unit_length(x: Array) -> Array:
    """Vectors along the last axis scaled to length one, in float32 at least.

    A vector shorter than 1e-12 is divided by that.
    """
    x = to_float32(x)
    # bounded before the root, whose slope at zero is infinite
    return x / jnp.sqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24))


class RMSNorm(Module):
    """Tokens scaled to the length sqrt(d), times a learned factor for each channel, `[... d] -> [... d]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', ones, x.shape[-1:], self.param_dtype)
        return self.cast(unit_length(x) * x.shape[-1] ** 0.5 * to_float32(scale), x, scale)

    torch_names = {'scale': 'g'}


def no_norm(**settings: Any) -> Callable[[Array], Array]:
    """Identity in place of a norm that is applied outside."""
    return lambda x: x


class HeadRMSNorm(Module):
    """RMSNorm of each head with factors of its own, `[b e n k] -> [b e n k]`.

    Attributes:
      start: initial value of the factors.
    """

    start: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        heads, width = x.shape[1], x.shape[-1]
        gamma = self.param('gamma', constant(self.start), (heads, 1, width), self.param_dtype)
        return self.cast(unit_length(x) * width**0.5 * to_float32(gamma), x, gamma)


class OffsetLayerNorm(Module):
    """LayerNorm without bias, its factor stored as the difference from one, `[... d] -> [... d]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param('gamma', zeros, x.shape[-1:], self.param_dtype)
        normed = LayerNorm(use_bias=False, use_scale=False, name='norm')(to_float32(x))
        return self.cast(normed * (to_float32(gamma) + 1), x, gamma)
