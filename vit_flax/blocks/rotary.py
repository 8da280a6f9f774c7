"""Rotary positions (RoFormer, arXiv:2104.09864): queries and keys are turned by angles that grow with the position."""

from collections.abc import Sequence
from statistics import NormalDist

import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_flax.blocks.precision import to_float32


def axial_angles(positions: Sequence[Array], frequencies: Array) -> Array:
    """Angles of a grid, each axis with channels of its own, `[n, axes * f]`.

    Args:
      positions: for each axis of the grid the coordinates along it; n is the product of their lengths.
      frequencies: `[f]`, angle for each unit of a coordinate.
    """
    grid = jnp.meshgrid(*positions, indexing='ij')
    return jnp.concatenate([axis.reshape(-1, 1) * frequencies for axis in grid], axis=-1)


def rotate(x: Array, angles: Array) -> Array:
    """Turns neighbouring channels, taken as the two coordinates of a point.

    Args:
      x: `[... n k]`.
      angles: `[n a]`; the first 2a channels turn, the others stay. A row of zeros leaves its token alone.
    """
    width = 2 * angles.shape[-1]
    turning, rest = to_float32(x[..., :width]), x[..., width:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = turning[..., 0::2], turning[..., 1::2]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.reshape(turning.shape).astype(x.dtype), rest], axis=-1)


def golden_gate_directions(count: int, axes: int) -> np.ndarray:
    """`count` directions that spread evenly over all that `axes` axes have (https://jerryxio.ng/posts/nd-rope).

    A low-discrepancy sequence made of powers of the generalised golden ratio, bent to a normal
    distribution, of which only the direction stays.

    Returns:
      `[count axes]` in float64, of length one.
    """
    ratio = 2.0
    for _ in range(10):
        ratio = (1 + ratio) ** (1 / (axes + 1))
    fractions = np.arange(1, count + 1)[:, None] * ratio ** -np.arange(1.0, axes + 1) % 1.0
    points = np.vectorize(NormalDist().inv_cdf)(fractions)
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def golden_gate_frequencies(
    heads: int, count: int, axes: int, min_freq: float, max_freq: float, p_zero_freqs: float
) -> np.ndarray:
    """For each pair of channels the angle by which a step along each axis turns it, `[heads count axes]` in float64.

    Args:
      heads: each has directions of its own.
      count: frequencies of a head.
      axes: of the grid.
      min_freq, max_freq: the lowest and the highest, the others in equal ratios between.
      p_zero_freqs: fraction of the frequencies that are zero.
    """
    zeros = round(p_zero_freqs * count)
    rates = min_freq * (max_freq / min_freq) ** np.linspace(0, 1, count - zeros)
    directions = golden_gate_directions(heads * count, axes).reshape(heads, count, axes)
    return directions * np.concatenate([np.zeros(zeros), rates])[:, None]


def grid_angles(grid: Sequence[int], frequencies: Array) -> Array:
    """Angles of all positions of a grid, the first axis outermost, `[e f axes] -> [e n f]`."""
    positions = np.indices(grid).reshape(len(grid), -1, 1)
    wide = to_float32(frequencies)
    # not a matrix product: an accelerator would round its factors to 16 bits
    turns = [position * wide[:, None, :, axis] for axis, position in enumerate(positions)]
    return jnp.stack(turns).sum(axis=0)
