"""Numbers that tell how an objective is doing beside its loss, in the collection `monitors` where that is mutable."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.norms import unit_length

MONITORS = 'monitors'


def watch(module: nn.Module, name: str, value: Array) -> None:
    """Shows a number, or one of each example; free unless `monitors` is mutable."""
    if not module.is_initializing():
        module.sow(MONITORS, name, value, reduce_fn=_newest, init_fn=lambda: None)


def _newest(_: Any, value: Array) -> Array:
    return value


def entropy(probabilities: Array) -> Array:
    """Mean entropy of distributions `[... k]`, in nats: log(k) if they are even, 0 if they are certain."""
    return -(probabilities * jnp.log(jnp.maximum(probabilities, 1e-20))).sum(axis=-1).mean()


def spread(features: Array) -> Array:
    """Deviation of the directions of features `[... b d]` over a batch: 1 if they point everywhere, 0 if one way."""
    directions = unit_length(features)
    return (directions.std(axis=-2) * directions.shape[-1] ** 0.5).mean()
