"""Normalisations by length; LayerNorm and BatchNorm stand in torch_like."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant, ones, zeros

from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import LayerNorm


def unit_length(x: Array) -> Array:
    """Vectors along the last axis scaled to length one; one shorter than 1e-12 is divided by that."""
    # bounded before the root, whose slope at zero is infinite
    return x / jnp.sqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24))


class RMSNorm(Module):
    """Tokens scaled to the length sqrt(d), times a learned factor for each channel, `[... d] -> [... d]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', ones, x.shape[-1:], self.param_dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x, scale = self.promote(unit_length(wide) * x.shape[-1] ** 0.5, scale)
        return x * scale

    torch_names = {'scale': 'g'}


def no_norm(**settings: Any) -> Callable[[Array], Array]:
    """In the place of a norm's constructor, where the norm stands elsewhere."""
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
        x, gamma = self.promote(unit_length(x), gamma)
        return x * width**0.5 * gamma


class OffsetLayerNorm(Module):
    """LayerNorm without bias, its factor stored as the difference from one, `[... d] -> [... d]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = LayerNorm(use_bias=False, use_scale=False, **self.precision, name='norm')(x)
        x, gamma = self.promote(x, self.param('gamma', zeros, x.shape[-1:], self.param_dtype))
        return x * (gamma + 1)
