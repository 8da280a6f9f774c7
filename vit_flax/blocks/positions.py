"""Position tables: made from sines and cosines, and learned ones moved to another grid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_flax.blocks.checks import check_choice

ResizeMethod = Literal['torch_bicubic', 'jax_bicubic']


@dataclass(frozen=True)
class Resampling:
    """How `torch.nn.functional.interpolate` resizes one axis.

    Attributes:
      mode: 'bicubic', whose cubic has a = -0.75 without and -0.5 with antialiasing, or 'bilinear'.
      antialias: widen the filter when the axis shrinks.
      align_corners: the first and the last samples stay, and not the borders of the pixels.
      offsets: how a table of relative offsets from -n to n is resampled: 'aligned' along the line between its ends;
        'geometric' at distances that grow by a constant factor, so that near ones keep their places (BEiT,
        arXiv:2106.08254); 'bilinear' as `interpolate` does it by default.
      offset: added to the new length where the step between samples is computed: interpolation is then asked for by a
        factor instead of a size, as in DINO's code, which adds 0.1 against rounding.
    """

    mode: Literal['bicubic', 'bilinear'] = 'bicubic'
    antialias: bool = False
    align_corners: bool = False
    offsets: Literal['aligned', 'geometric', 'bilinear'] = 'aligned'
    offset: float = 0.0


def sincos_2d(rows: int, columns: int, dim: int, temperature: float = 10000.0) -> np.ndarray:
    """Fixed 2-d table of "Better plain ViT baselines" (arXiv:2205.01580), `[rows * columns, dim]` in float64.

    Sine and cosine of the column, then of the row, a quarter of the channels each. Cast it to the
    dtype of the tokens: a sine taken in float32 already differs from machine to machine.
    """
    if dim % 4 or dim < 8:
        raise ValueError(f'dim={dim} must be a multiple of 4, at least 8, for 2-d sine-cosine positions')
    return sincos_grid((rows, columns), dim, temperature)


def sincos_grid(grid: Sequence[int], dim: int, temperature: float = 10000.0) -> np.ndarray:
    """The same for a grid of any number of axes, `[n d]` in float64, the first axis outermost.

    Sine and cosine of each coordinate, that of the last axis first; channels that are left over are zero.
    """
    frequencies = dim // (2 * len(grid))
    if frequencies < 2:
        raise ValueError(f'dim={dim} must be at least {4 * len(grid)} for sine-cosine positions along {len(grid)} axes')
    omega = temperature ** -(np.arange(frequencies) / (frequencies - 1))
    positions = np.meshgrid(*map(np.arange, grid), indexing='ij')
    angles = [axis.reshape(-1, 1) * omega for axis in reversed(positions)]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return np.pad(table, ((0, 0), (0, dim - table.shape[1])))


def resize_position_embedding(
    table: Array | np.ndarray,
    old_grid: Sequence[int],
    new_grid: Sequence[int],
    *,
    prefix_tokens: int = 0,
    method: ResizeMethod = 'torch_bicubic',
    antialias: bool = False,
) -> Array:
    """Interpolates a learned position table to another grid of patches.

    Args:
      table: `[prefix_tokens + rows * columns, d]`, rows first; a leading batch axis of 1 is kept.
      old_grid: (rows, columns) of the patches that `table` was trained on; of a series (patches,), of a video
        (steps, rows, columns), each axis resized like those of an image.
      new_grid: the grid wanted, of as many axes.
      prefix_tokens: leading rows without a position in the image (cls, registers); copied.
      method: `torch_bicubic` is `torch.nn.functional.interpolate(mode='bicubic', align_corners=False)`,
        whose cubic has a = -0.75 without and -0.5 with antialiasing; `jax_bicubic` is
        `jax.image.resize(method='bicubic')`, a = -0.5, weights renormalised at the border.
      antialias: widen the filter when the grid shrinks.

    Returns:
      `[prefix_tokens + new rows * new columns, d]`, in the table's dtype.

    Raises:
      ValueError: the table does not hold the old grid, or the method is unknown.
    """
    check_choice('method', method, ('torch_bicubic', 'jax_bicubic'))
    table = jnp.asarray(table)
    old_grid, new_grid = tuple(old_grid), tuple(new_grid)
    old_tokens = prefix_tokens + math.prod(old_grid)
    if table.ndim not in (2, 3) or table.shape[-2] != old_tokens or (table.ndim == 3 and table.shape[0] != 1):
        raise ValueError(
            f'table of shape {table.shape} does not hold {prefix_tokens} prefix tokens and a grid of '
            f'old_grid={old_grid}: expected [{old_tokens} d] or [1 {old_tokens} d]'
        )
    if len(new_grid) != len(old_grid) or min(new_grid) < 1:
        raise ValueError(f'new_grid={new_grid} must have {len(old_grid)} axes, each with at least one patch')
    prefix, patches = jnp.split(table, [prefix_tokens], axis=-2)
    grid = patches.reshape(*old_grid, table.shape[-1])
    if method == 'jax_bicubic':
        shape = (*new_grid, table.shape[-1])
        grid = jax.image.resize(grid, shape, 'bicubic', antialias=antialias).astype(table.dtype)
    else:
        how = Resampling(antialias=antialias)
        grid = resize_axes(grid, 0, new_grid, partial(resampling_matrix, resampling=how))
    patches = grid.reshape(*patches.shape[:-2], -1, table.shape[-1])
    return jnp.concatenate([prefix, patches], axis=-2)


def resize_axes(x: Array, first: int, lengths: Sequence[int], matrix_of: Callable[[int, int], np.ndarray]) -> Array:
    """Neighbouring axes of an array, from the axis `first` on, resized to these lengths.

    Args:
      x: the array.
      first, lengths: which axes, and their new lengths.
      matrix_of: the matrix `[new old]` for an old and a new length.
    """
    for axis, length in enumerate(lengths, start=first):
        matrix = matrix_of(x.shape[axis], length).astype(x.dtype)
        # Small matrices: full precision costs nothing and TPUs would round to bfloat16 otherwise.
        x = jnp.moveaxis(jnp.tensordot(matrix, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST), 0, axis)
    return x


def resampling_matrix(old: int, new: int, resampling: Resampling) -> np.ndarray:
    """The matrix `[new old]` by which one axis is resized."""
    bicubic = resampling.mode == 'bicubic'
    scale = old / (new + resampling.offset)
    matrix = np.zeros((new, old))
    if not resampling.antialias:
        # Taps around each source coordinate; those outside take the border's value.
        corners = np.arange(new) * ((old - 1) / max(new - 1, 1))
        centres = corners if resampling.align_corners else (np.arange(new) + 0.5) * scale - 0.5
        if not bicubic:
            centres = centres.clip(0, old - 1)
        for tap in range(-1, 3) if bicubic else range(2):
            source = np.floor(centres).astype(int) + tap
            weights = _cubic(centres - source, -0.75) if bicubic else 1 - np.abs(centres - source)
            np.add.at(matrix, (np.arange(new), source.clip(0, old - 1)), weights)
        return matrix
    # As Pillow: the filter grows with the shrinking factor, is cut at the border and renormalised.
    stretch = max(scale, 1.0)
    support = (2 if bicubic else 1) * stretch
    for i in range(new):
        centre = (i + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), old)
        source = np.arange(first, last)
        distances = (source - centre + 0.5) / stretch
        weights = _cubic(distances, -0.5) if bicubic else np.maximum(1 - np.abs(distances), 0)
        matrix[i, first:last] = weights / weights.sum()
    return matrix


def geometric_matrix(old: int, new: int) -> np.ndarray:
    """The matrix `[new old]` by which offsets from -(old // 2) to old // 2 become those up to new // 2.

    The old values stand at distances 0, 1, 1 + q, 1 + q + q^2, ..., of which the last is about the new largest; between
    two of them the new ones are interpolated linearly, beyond the last they are its value.
    """
    if old == 1:  # no distance to grow
        return np.ones((new, 1))
    far, low, high = old // 2, 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reaches = (1 - ratio**far) / (1 - ratio) > new // 2
        low, high = (low, ratio) if reaches else (ratio, high)
    distances = np.cumsum([0, *ratio ** np.arange(far)])
    places = np.concatenate([-distances[:0:-1], distances])
    wanted = (np.arange(new) - new // 2).clip(places[0], places[-1])
    right = np.searchsorted(places, wanted).clip(1, old - 1)
    share = (wanted - places[right - 1]) / (places[right] - places[right - 1])
    matrix = np.zeros((new, old))
    matrix[np.arange(new), right - 1] = 1 - share
    matrix[np.arange(new), right] += share
    return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' convolution kernel with the free parameter a."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
