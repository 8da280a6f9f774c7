"""Rotary positions (RoFormer, arXiv:2104.09864): queries and keys are turned by angles that grow with the place."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array


def axial_angles(places: Sequence[Array], frequencies: Array) -> Array:
    """Angles of a grid, each axis with channels of its own, `[n, axes * f]`.

    Args:
      places: for each axis of the grid the coordinates along it; n is the product of their lengths.
      frequencies: `[f]`, angle for each unit of a coordinate.
    """
    grid = jnp.meshgrid(*places, indexing='ij')
    return jnp.concatenate([axis.reshape(-1, 1) * frequencies for axis in grid], axis=-1)


def rotate(x: Array, angles: Array) -> Array:
    """Turns neighbouring channels, taken as the two coordinates of a point.

    Args:
      x: `[... n k]`.
      angles: `[n a]`; the first 2a channels turn, the others stay. A row of zeros leaves its token alone.
    """
    width = 2 * angles.shape[-1]
    turning, rest = x[..., :width], x[..., width:]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = turning[..., 0::2], turning[..., 1::2]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.reshape(turning.shape), rest], axis=-1)
