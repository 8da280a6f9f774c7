"""Argument checks shared by the models: each says what was given and what would be right."""

import warnings
from collections.abc import Sequence
from functools import cache

from jax import Array


def pair(size: int | Sequence[int], name: str = 'size') -> tuple[int, int]:
    """`8 -> (8, 8)`, `(8, 4) -> (8, 4)`; raises if there are more or less than two, in the name of the argument."""
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f'{name}={tuple(size)} must be one number, or two for height and width')
    height, width = size
    return int(height), int(width)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown: use one of {", ".join(map(repr, choices))}')


def patch_grid(
    image_size: int | Sequence[int],
    patch_size: int | Sequence[int],
    name: str = 'image_size',
    patches: str = 'patch_size',
) -> tuple[int, int]:
    """Rows and columns of patches; raises if the patches do not tile the image."""
    rows, columns = patch_counts(pair(image_size, name), pair(patch_size, patches), name, patches)
    return rows, columns


def patch_counts(
    lengths: Sequence[int], parts: Sequence[int], name: str, patches: str = 'patch_size'
) -> tuple[int, ...]:
    """Patches along each axis of a grid; raises if they do not tile it."""
    lengths, parts = tuple(lengths), tuple(parts)
    if len(lengths) != len(parts):
        raise ValueError(f'{patches}={parts} must be of as many axes as {name}={lengths}')
    counts = tuple(length // part for length, part in zip(lengths, parts, strict=True))
    if 0 in counts:
        raise ValueError(f'{name}={lengths} has no room for one of {patches}={parts}: it must be at least {parts}')
    shorter = tuple(count * part for count, part in zip(counts, parts, strict=True))
    if shorter != lengths:
        longer = tuple(-(-length // part) * part for length, part in zip(lengths, parts, strict=True))
        raise ValueError(
            f'{name}={lengths} is not divisible by {patches}={parts}: the nearest that fit are {shorter} and {longer}'
        )
    return counts


def check_images(images: Array, channels: int, layout: str = 'b h w c') -> None:
    """Raises unless `images` has the layout's rank and the right number of channels, last."""
    axes = layout.split()
    if images.ndim != len(axes):
        raise ValueError(f'expected input of layout [{layout}], got shape {images.shape} with {images.ndim} axes')
    if images.shape[-1] != channels:
        hint = ' (channels come last here, unlike in PyTorch)' if images.shape[1] == channels else ''
        raise ValueError(f'expected {channels} channels in the last axis, got shape {images.shape}{hint}')
    if 0 in images.shape[1:-1]:
        raise ValueError(f'expected input of layout [{layout}] with no axis of length 0, got shape {images.shape}')


def check_divisible(name: str, value: int, by: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f'{name}={value} is not divisible by {by}={divisor}')


def check_num_positions(patches: int, positions: int, size: str) -> None:
    """Raises if an input has more patches than the table has positions; `size` is the model's: `image_size=24`."""
    if patches > positions:
        name = size.partition('=')[0]
        raise ValueError(
            f'the inputs have {patches} patches, {size} has positions for {positions}: build the model with the larger '
            f'{name} and move the table with vit_flax.resize_position_embedding'
        )


def warn_of_other_grid(grid: Sequence[int], table: Sequence[int], size: str) -> None:
    """Warns once if the patches of a grid take the first rows of a position table that belong to other patches.

    They do unless both grids have the same length along each axis but the first.
    """
    if tuple(grid[1:]) != tuple(table[1:]):
        _warn_once(tuple(grid), tuple(table), size)


@cache
def _warn_once(grid: tuple[int, ...], table: tuple[int, ...], size: str) -> None:
    warnings.warn(
        f'the inputs have a grid of {grid} patches, {size} one of {table}: they take the first rows of the position '
        'table, as in PyTorch, which belong to other patches; vit_flax.resize_position_embedding moves the table',
        stacklevel=2,
    )
