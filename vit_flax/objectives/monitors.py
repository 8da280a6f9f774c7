"""Metrics of an objective beside its loss, in the collection `monitors` where that is mutable."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from vit_flax.blocks.averages import weighted_mean
from vit_flax.blocks.norms import unit_length

MONITORS = 'monitors'


def watch(module: nn.Module, name: str, value: Array) -> None:
    """Records a metric, a scalar or one of each example `[b]`; free unless `monitors` is mutable."""
    if not module.is_initializing():
        module.sow(MONITORS, name, value, reduce_fn=_newest, init_fn=lambda: None)


def _newest(_: Any, value: Array) -> Array:
    return value


def entropy(probabilities: Array) -> Array:
    """Entropy of distributions in nats, `[... k] -> [...]`: log(k) if they are uniform, 0 if they are certain."""
    return -(probabilities * jnp.log(jnp.maximum(probabilities, 1e-20))).sum(axis=-1)


def spread(features: Array, weights: Array | None = None) -> Array:
    """Standard deviation of the directions of features `[... b d]` over a batch, a scalar.

    It is 1 if the directions are uniform, and 0 if all are the same. Weights `[b]` are 0 for padding.
    """
    directions = unit_length(features)
    deviations = directions - weighted_mean(directions, weights, axis=-2, keepdims=True)
    std = jnp.sqrt(weighted_mean(deviations**2, weights, axis=-2))
    return (std * directions.shape[-1] ** 0.5).mean()
