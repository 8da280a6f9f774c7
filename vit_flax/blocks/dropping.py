"""Random omissions; the draw is apart from its use, so that a caller can make it."""

import jax
import jax.numpy as jnp
from jax import Array


def draw_patches(rng: Array, batch: int, tokens: int, rate: float) -> Array:
    """Which patches of each image stay, int `[b kept]` without repetition: `int(tokens * (1 - rate))`, at least one."""
    kept = max(1, int(tokens * (1 - rate)))
    return jnp.argsort(jax.random.uniform(rng, (batch, tokens)), axis=1)[:, :kept]
