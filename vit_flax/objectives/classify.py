"""Cross-entropy, for the objectives that learn labels."""

import jax
import jax.numpy as jnp
from jax import Array

from vit_flax.blocks.precision import to_float32


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over the batch of logits `[b c]` with labels int `[b]` or probabilities `[b c]`, as of mixup."""
    log_probabilities = jax.nn.log_softmax(to_float32(logits))
    if labels.ndim == 2:
        return -(labels * log_probabilities).sum(axis=-1).mean()
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1).mean()
