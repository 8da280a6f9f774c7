"""Random omissions; the draw is apart from its use, so that a caller can make it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def draw_patches(rng: Array, batch: int, tokens: int, rate: float) -> Array:
    """Which patches of each image stay, int `[b kept]` without repetition: `int(tokens * (1 - rate))`, at least one."""
    kept = max(1, int(tokens * (1 - rate)))
    return jnp.argsort(jax.random.uniform(rng, (batch, tokens)), axis=1)[:, :kept]


def path_rates(rate: float, layers: int) -> np.ndarray:
    """Rate at which a layer's branches are dropped, `[layers]`: from 0 in the first to `rate` in the last."""
    return np.linspace(0, rate, layers)


def draw_paths(rng: Array, batch: int, rate: float, layers: int) -> Array:
    """Which branches of which images run, bool `[layers 2 b]`, at `path_rates`."""
    return jax.random.uniform(rng, (layers, 2, batch)) >= path_rates(rate, layers)[:, None, None]
