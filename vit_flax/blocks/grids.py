"""Grids of patches as values: how an input of any number of axes is cut, and which tokens stand for its patches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from vit_flax.blocks.checks import (
    check_divisible,
    check_images,
    check_num_positions,
    pair,
    patch_counts,
    patch_grid,
    warn_of_other_grid,
)
from vit_flax.blocks.patches import count_patches, patchify, unpatchify


@dataclass(frozen=True)
class Grid:
    """The patches of an input, row by row; made by `image_grid`, `series_grid`, `video_grid` or `nd_grid`.

    Attributes:
      lengths: of the input's axes between batch and channels.
      patch: lengths of a patch along these axes.
      shape: number of patches along each of them.
      channels: of the input.
      layout: the input's axes, as in `b h w c`.
      size: the arguments that set the lengths, for error messages, as in `image_size=32`.
    """

    lengths: tuple[int, ...]
    patch: tuple[int, ...]
    shape: tuple[int, ...]
    channels: int
    layout: str
    size: str

    @property
    def num_patches(self) -> int:
        return math.prod(self.shape)

    @property
    def patch_dim(self) -> int:
        """Values in a patch."""
        return math.prod(self.patch) * self.channels

    def check(self, x: Array) -> None:
        """Raises unless the input has the right rank and channels; its lengths may differ."""
        check_images(x, self.channels, self.layout)

    def check_num_positions(self, patches: int, positions: int | None = None) -> None:
        """Raises if an input has more patches than there are positions, by default one for each patch of this grid."""
        check_num_positions(patches, self.num_patches if positions is None else positions, self.size)

    def warn_of_other_grid(self, shape: Sequence[int]) -> None:
        """Warns once if the first rows of the position table belong to other patches than those of an input."""
        warn_of_other_grid(shape, self.shape, self.size)

    def patchify(self, x: Array) -> Array:
        """The input cut into patches, `[b h w c] -> [b n p]`."""
        self.check(x)
        patches = patchify(x, self.patch)
        return patches.reshape(patches.shape[0], math.prod(patches.shape[1:-1]), patches.shape[-1])

    def unpatchify(self, patches: Array, shape: Sequence[int] | None = None) -> Array:
        """The inverse of `patchify`, `[b n p] -> [b h w c]`; `shape` in patches, this grid's by default."""
        return unpatchify(patches, shape or self.shape, self.patch)

    def shape_of(self, x: Array) -> tuple[int, ...]:
        """Patches along each axis of an input, which may have other lengths."""
        return count_patches(x, self.patch)

    def example(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one input, for tracing."""
        return jax.ShapeDtypeStruct((1, *self.lengths, self.channels), jnp.float32)


@dataclass(frozen=True)
class TokenGrid:
    """A sequence of tokens: the patches of a grid, row by row, between tokens that have no position.

    Attributes:
      shape: of the grid.
      prefix: tokens before the patches, such as a class token.
      suffix: tokens after them, such as registers.
    """

    shape: tuple[int, ...]
    prefix: int = 0
    suffix: int = 0

    @property
    def num_tokens(self) -> int:
        return self.prefix + math.prod(self.shape) + self.suffix


def image_grid(
    image_size: int | Sequence[int], patch_size: int | Sequence[int], channels: int, name: str = 'image_size'
) -> Grid:
    """Patches of images `[b h w c]`, whose size is the argument `name` of a model.

    Raises:
      ValueError: the patches do not tile the image; likewise the functions below.
    """
    lengths, patch = pair(image_size, name), pair(patch_size, 'patch_size')
    shape = patch_grid(image_size, patch_size, name)
    return Grid(lengths, patch, shape, channels, 'b h w c', f'{name}={image_size}')


def series_grid(seq_len: int, patch_size: int, channels: int) -> Grid:
    """Patches of series `[b n c]`."""
    check_divisible('seq_len', seq_len, 'patch_size', patch_size)
    return Grid((seq_len,), (patch_size,), (seq_len // patch_size,), channels, 'b n c', f'seq_len={seq_len}')


def video_grid(
    image_size: int | Sequence[int],
    image_patch_size: int | Sequence[int],
    frames: int,
    frame_patch_size: int,
    channels: int,
    argument: str = 'image_patch_size',
) -> Grid:
    """Patches of videos and volumes `[b t h w c]`; `argument` is what the model calls `image_patch_size`."""
    check_divisible('frames', frames, 'frame_patch_size', frame_patch_size)
    shape = frames // frame_patch_size, *patch_grid(image_size, image_patch_size, patches=argument)
    lengths = frames, *pair(image_size, 'image_size')
    patch = frame_patch_size, *pair(image_patch_size, argument)
    return Grid(lengths, patch, shape, channels, 'b t h w c', f'frames={frames} with image_size={image_size}')


def nd_grid(ndim: int, input_shape: int | Sequence[int], patch_size: int | Sequence[int], channels: int) -> Grid:
    """Patches of inputs of 1 to 7 axes `[b *grid c]`."""
    if not 1 <= ndim <= 7:
        raise ValueError(f'ndim={ndim} must be between 1 and 7')
    lengths, patch = _per_axis('input_shape', input_shape, ndim), _per_axis('patch_size', patch_size, ndim)
    layout = ' '.join(['b', *'fghijkl'[:ndim], 'c'])
    shape = patch_counts(lengths, patch, 'input_shape')
    return Grid(lengths, patch, shape, channels, layout, f'input_shape={lengths}')


def stage_grids(lengths: Sequence[int], strides: Sequence[int]) -> tuple[TokenGrid, ...]:
    """Feature maps of stages that each divide the resolution by a stride, rounded up."""
    grids = []
    for stride in strides:
        lengths = tuple(-(-length // stride) for length in lengths)
        grids.append(TokenGrid(lengths))
    return tuple(grids)


def _per_axis(name: str, value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    lengths = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(lengths) != ndim:
        raise ValueError(f'{name}={lengths} must be one number or {ndim}, for ndim={ndim}')
    return lengths
