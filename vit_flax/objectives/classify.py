"""Cross entropy, for the objectives that learn labels."""

import jax
import jax.numpy as jnp
from jax import Array

from vit_flax.blocks.precision import to_float32


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the batch, `[b c]` with classes int `[b]` or shares of them `[b c]`, as mixup makes them."""
    shares = jax.nn.log_softmax(to_float32(logits))
    if labels.ndim == 2:
        return -(labels * shares).sum(axis=-1).mean()
    return -jnp.take_along_axis(shares, labels[:, None], axis=-1).mean()
