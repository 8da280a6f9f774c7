"""Which patches are hidden: draws, shared by the objectives of masked images."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vit_flax.blocks.checks import check_choice


def check_masking(masking: str) -> None:
    """Raises unless it is a way to draw hidden patches that needs no further settings."""
    check_choice('masking', masking, ('random', 'tube'))


def masked_count(masking_ratio: float, patches: int) -> int:
    """How many of the patches are hidden; raises unless some are and some are not."""
    if not 0 < masking_ratio < 1:
        raise ValueError(f'masking_ratio={masking_ratio} must be between 0 and 1')
    count = int(masking_ratio * patches)
    if count == 0:
        raise ValueError(f'masking_ratio={masking_ratio} hides none of {patches} patches')
    return count


def random_split(rng: Array, batch: int, patches: int, masking_ratio: float) -> tuple[Array, Array]:
    """Hidden and visible patches of each image, any of them equally likely: int `[b m]` and `[b n-m]`."""
    order = jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)
    count = masked_count(masking_ratio, patches)
    return order[:, :count], order[:, count:]


def tube_split(rng: Array, batch: int, grid: Sequence[int], masking_ratio: float) -> tuple[Array, Array]:
    """The same for videos of `grid` = (steps, rows, columns): the same places are hidden at every step."""
    steps, *space = grid
    places = math.prod(space)
    starts = places * jnp.arange(steps)[:, None]
    hidden, seen = random_split(rng, batch, places, masking_ratio)
    return tuple((starts + part[:, None]).reshape(batch, -1) for part in (hidden, seen))  # type: ignore[return-value]


def block_split(
    rng: Array, batch: int, grid: Sequence[int], masking_ratio: float, block: Sequence[int]
) -> tuple[Array, Array]:
    """The same with patches hidden in blocks of so many along each axis, as in SimMIM (arXiv:2111.09886).

    The share of hidden blocks is rounded down as that of patches is. Blocks begin at the first patch.

    Raises:
      ValueError: blocks do not tile the grid.
    """
    grid, block = tuple(grid), tuple(block)
    if len(grid) != len(block) or any(length % part for length, part in zip(grid, block, strict=True)):
        raise ValueError(f'blocks of {block} patches do not tile a grid of {grid} patches')
    blocks = tuple(length // part for length, part in zip(grid, block, strict=True))
    of_block = np.arange(math.prod(blocks)).reshape(blocks)
    for axis, part in enumerate(block):
        of_block = of_block.repeat(part, axis)
    # patches of each block, [blocks patches]
    members = np.argsort(of_block.ravel(), kind='stable').reshape(math.prod(blocks), -1)
    hidden, seen = random_split(rng, batch, math.prod(blocks), masking_ratio)
    return tuple(jnp.asarray(members)[part].reshape(batch, -1) for part in (hidden, seen))  # type: ignore[return-value]
