"""Normalisations by length; LayerNorm and BatchNorm stand in torch_like."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.nn.initializers import constant

from vit_flax.blocks.module import Module


def unit_length(x: Array) -> Array:
    """Vectors along the last axis scaled to length one; one shorter than 1e-12 is divided by that."""
    # bounded before the root, whose slope at zero is infinite
    return x / jnp.sqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-24))


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
