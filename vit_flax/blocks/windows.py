"""Attention inside windows: a feature map cut into them and put together again, and their relative position bias."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.nn.initializers import normal

from vit_flax.blocks.checks import pair
from vit_flax.blocks.module import Module
from vit_flax.blocks.position_tables import PositionTable
from vit_flax.blocks.precision import to_float32


def check_windows(x: Array, size: int | Sequence[int], name: str = 'window_size') -> tuple[int, int]:
    """Rows and columns of windows in `[b h w d]`; raises if the windows do not tile it."""
    (height, width), (p, q) = x.shape[1:3], pair(size)
    if height % p or width % q or not (height and width):
        raise ValueError(f'{name}={(p, q)} does not divide the feature map of {height} x {width}')
    return height // p, width // q


def to_windows(x: Array, size: int | Sequence[int], name: str = 'window_size') -> Array:
    """Cuts a feature map into windows of neighbours, `[b (h p) (w q) d] -> [(b h w) (p q) d]`.

    Args:
      x: the feature map.
      size: p and q, or one number for both.
      name: what the caller's argument is called, for the error when the windows do not tile the map.
    """
    check_windows(x, size, name)
    p, q = pair(size)
    return rearrange(x, 'b (h p) (w q) d -> (b h w) (p q) d', p=p, q=q)


def from_windows(x: Array, size: int | Sequence[int], grid: tuple[int, int]) -> Array:
    """Back to the feature map from `grid` = (h, w) windows, `[(b h w) (p q) d] -> [b (h p) (w q) d]`."""
    (p, q), (h, w) = pair(size), grid
    return rearrange(x, '(b h w) (p q) d -> b (h p) (w q) d', h=h, w=w, p=p, q=q)


def to_grids(x: Array, size: int | Sequence[int], name: str = 'window_size') -> Array:
    """Grid partition of MaxViT: strided windows, `[b (p h) (q w) d] -> [(b h w) (p q) d]`."""
    check_windows(x, size, name)
    p, q = pair(size)
    return rearrange(x, 'b (p h) (q w) d -> (b h w) (p q) d', p=p, q=q)


def from_grids(x: Array, size: int | Sequence[int], grid: tuple[int, int]) -> Array:
    """Back to the feature map from `grid` = (h, w) of them, `[(b h w) (p q) d] -> [b (p h) (q w) d]`."""
    (p, q), (h, w) = pair(size), grid
    return rearrange(x, '(b h w) (p q) d -> b (p h) (q w) d', h=h, w=w, p=p, q=q)


def relative_positions(size: int | Sequence[int]) -> np.ndarray:
    """Relative offsets between the positions of a window, `[2 n m]`: query minus key."""
    p, q = pair(size)
    positions = np.mgrid[:p, :q].reshape(2, -1)
    return positions[:, :, None] - positions[:, None]


class RelativePositionBias(Module):
    """A learned bias for each head and relative offset in a window, `[e n n]`."""

    size: int | Sequence[int]
    heads: int

    @property
    def rows(self) -> int:
        """Of the table: one for each way."""
        p, q = pair(self.size, 'size')
        return (2 * p - 1) * (2 * q - 1)

    def position_tables(self) -> dict[str, PositionTable]:
        p, q = pair(self.size)
        return {'embedding': PositionTable((2 * p - 1, 2 * q - 1), offsets=True)}

    def index(self) -> np.ndarray:
        """Row of the table for each query and key, `[n n]`."""
        p, q = pair(self.size, 'size')
        down, right = relative_positions(self.size)
        return (down + p - 1) * (2 * q - 1) + right + q - 1

    @nn.compact
    def __call__(self) -> Array:
        table = self.param('embedding', normal(1.0), (self.rows, self.heads), self.param_dtype)
        return rearrange(to_float32(table)[self.index()], 'n m e -> e n m')
