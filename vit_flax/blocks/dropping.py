"""Random omissions; the draw is apart from its use, so that a caller can make it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


def draw_layers(rng: Array, depth: int, rate: float) -> Array:
    """Which of `depth` layers run, bool `[depth]`: each is dropped with probability `rate`, never all."""
    drop_rng, survivor_rng = jax.random.split(rng)
    keep = jax.random.uniform(drop_rng, (depth,)) >= rate
    survivor = jnp.arange(depth) == jax.random.randint(survivor_rng, (), 0, depth)
    return jnp.where(keep.any(), keep, survivor)


def surviving_layers(module: nn.Module, depth: int, rate: float, keep: Array | None, train: bool) -> dict[str, Any]:
    """What a `Transformer` hands to its blocks: `keep` as given, or drawn in training from the rng `drop_path`."""
    if keep is None and train and rate > 0:
        keep = draw_layers(module.make_rng('drop_path'), depth, rate)
    return {} if keep is None else {'keep': keep}


def draw_patches(rng: Array, batch: int, tokens: int, rate: float) -> Array:
    """Which patches of each image stay, int `[b kept]` without repetition: `int(tokens * (1 - rate))`, at least one."""
    kept = max(1, int(tokens * (1 - rate)))
    return jnp.argsort(jax.random.uniform(rng, (batch, tokens)), axis=1)[:, :kept]
