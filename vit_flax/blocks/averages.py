"""Means of each row of a batch, and over the rows that count."""

import jax.numpy as jnp
from jax import Array


def weighted_mean(x: Array, weights: Array | None, axis: int | tuple[int, ...] = 0, keepdims: bool = False) -> Array:
    """Mean along an axis, or several; without weights the plain mean, and 0 if all weights are 0.

    Args:
      x: `[... b ...]`, float32 or wider.
      weights: `[b]`, of the shape of these axes, at least 0, such as 0 for padding.
      axis: of the rows.
      keepdims: whether the axis is kept, with length 1.
    """
    if weights is None:
        return x.mean(axis=axis, keepdims=keepdims)
    weights = weights.astype(x.dtype)
    weights = weights / jnp.maximum(weights.sum(), jnp.finfo(x.dtype).tiny)
    rows = {i % x.ndim for i in ((axis,) if isinstance(axis, int) else axis)}
    along = jnp.expand_dims(weights, [i for i in range(x.ndim) if i not in rows])
    return (x * along).sum(axis=axis, keepdims=keepdims)


def mean_of_each(x: Array) -> Array:
    """Mean of each row, `[b ...] -> [b]`."""
    return x.mean(axis=tuple(range(1, x.ndim)))
