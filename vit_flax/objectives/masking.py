"""Draws of masked patches, shared by the objectives of masked images."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# How masked patches are drawn.
Masking = Literal['random', 'tube']


def check_masking(masking: Masking, patch_lengths: Sequence[int]) -> None:
    """Raises if patches of these lengths have no time axis, which tubes go along."""
    if masking == 'tube' and len(patch_lengths) < 3:
        raise ValueError(
            "masking='tube' masks the same positions at every step of a video, and the patches have "
            f"{len(patch_lengths)} axes: it must be 'random'"
        )


def masked_count(masking_ratio: float, patches: int) -> int:
    """Number of masked patches; raises unless some are masked and some are not."""
    if not 0 < masking_ratio < 1:
        raise ValueError(f'masking_ratio={masking_ratio} must be between 0 and 1')
    count = int(masking_ratio * patches)
    if count == 0:
        raise ValueError(f'masking_ratio={masking_ratio} masks none of {patches} patches')
    return count


def random_split(rng: Array, batch: int, patches: int, masking_ratio: float) -> tuple[Array, Array]:
    """Masked and visible patches of each image, uniformly drawn: int `[b m]` and `[b n-m]`."""
    order = jnp.argsort(jax.random.uniform(rng, (batch, patches)), axis=1)
    count = masked_count(masking_ratio, patches)
    return order[:, :count], order[:, count:]


def tube_split(rng: Array, batch: int, grid: Sequence[int], masking_ratio: float) -> tuple[Array, Array]:
    """The same for videos of `grid` = (steps, rows, columns): the same positions are masked at every step."""
    steps, *space = grid
    positions = math.prod(space)
    starts = positions * jnp.arange(steps)[:, None]
    split = random_split(rng, batch, positions, masking_ratio)
    return tuple((starts + part[:, None]).reshape(batch, -1) for part in split)  # type: ignore[return-value]


def block_split(
    rng: Array, batch: int, grid: Sequence[int], masking_ratio: float, block: Sequence[int]
) -> tuple[Array, Array]:
    """The same with patches masked in blocks of `block` patches, as in SimMIM (arXiv:2111.09886).

    The number of masked blocks is rounded down as that of patches is. Blocks begin at the first patch.

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
    split = random_split(rng, batch, math.prod(blocks), masking_ratio)
    return tuple(jnp.asarray(members)[part].reshape(batch, -1) for part in split)  # type: ignore[return-value]
