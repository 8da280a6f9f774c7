"""What a model of patches takes: a series, images, a video, or a grid of any number of axes."""

import math
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from vit_flax.blocks.checks import (
    check_divisible,
    check_images,
    check_places,
    check_room,
    pair,
    patch_counts,
    patch_grid,
)
from vit_flax.blocks.module import Module
from vit_flax.blocks.patches import patchify, unpatchify


class Grid(Module, kw_only=True):
    """A model whose input is cut into patches; one of the classes below says along which axes."""

    @property
    def channels(self) -> int:
        """Of the input; an argument of the model."""
        raise NotImplementedError

    @property
    def layout(self) -> str:
        """Of the input: `b h w c`."""
        raise NotImplementedError

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the input's axes between batch and channels."""
        raise NotImplementedError

    @property
    def patch_lengths(self) -> tuple[int, ...]:
        """Of a patch, along the same axes."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis; raises if they do not tile the input."""
        raise NotImplementedError

    @property
    def stated_size(self) -> str:
        """The arguments that say how large the input is, for errors."""
        raise NotImplementedError

    @property
    def num_patches(self) -> int:
        return math.prod(self.grid)

    @property
    def num_positions(self) -> int:
        """Rows of the position table."""
        return self.num_patches

    def patchify(self, x: Array) -> Array:
        """The input cut into patches that hold its values, `[b h w c] -> [b n p]`."""
        self.check_input(x)
        patches = patchify(x, self.patch_lengths)
        return patches.reshape(patches.shape[0], math.prod(patches.shape[1:-1]), patches.shape[-1])

    def unpatchify(self, patches: Array, grid: Sequence[int] | None = None) -> Array:
        """The inverse of `patchify`, `[b n p] -> [b h w c]`; `grid` if it is not the model's own."""
        return unpatchify(patches, grid or self.grid, self.patch_lengths)

    def check_input(self, x: Array) -> None:
        """Raises unless the input has the right rank and channels."""
        check_images(x, self.channels, self.layout)

    def check_room(self, patches: int, room: int) -> None:
        """Raises if there are more patches than positions."""
        check_room(patches, room, self.stated_size)

    def check_places(self, grid: Sequence[int]) -> None:
        """Warns once if the first rows of the position table belong to other places than those of a grid's patches."""
        check_places(grid, self.grid, self.stated_size)

    def example_input(self) -> jax.ShapeDtypeStruct:
        """An input that fits, for tracing."""
        return jax.ShapeDtypeStruct((1, *self.lengths, self.channels), jnp.float32)


class ImageGrid(Grid, kw_only=True):
    """Images `[b h w c]`.

    Attributes:
      image_size: height and width in pixels, or one number for both.
      patch_size: height and width of a patch; must divide the image's.
    """

    image_size: int | Sequence[int]
    patch_size: int | Sequence[int]

    @property
    def layout(self) -> str:
        return 'b h w c'

    @property
    def lengths(self) -> tuple[int, ...]:
        return pair(self.image_size, 'image_size')

    @property
    def patch_lengths(self) -> tuple[int, ...]:
        return pair(self.patch_size, 'patch_size')

    @property
    def grid(self) -> tuple[int, ...]:
        return patch_grid(self.image_size, self.patch_size)

    @property
    def stated_size(self) -> str:
        return f'image_size={self.image_size}'


class SeriesGrid(Grid, kw_only=True):
    """Series `[b n c]`.

    Attributes:
      seq_len: length of a series.
      patch_size: length of a patch; must divide the series'.
    """

    seq_len: int
    patch_size: int

    @property
    def layout(self) -> str:
        return 'b n c'

    @property
    def lengths(self) -> tuple[int, ...]:
        return (self.seq_len,)

    @property
    def patch_lengths(self) -> tuple[int, ...]:
        return (self.patch_size,)

    @property
    def grid(self) -> tuple[int, ...]:
        check_divisible('seq_len', self.seq_len, 'patch_size', self.patch_size)
        return (self.seq_len // self.patch_size,)

    @property
    def stated_size(self) -> str:
        return f'seq_len={self.seq_len}'


class VideoGrid(Grid, kw_only=True):
    """Videos and volumes `[b t h w c]`.

    Attributes:
      image_size: height and width of a frame in pixels, or one number for both.
      image_patch_size: height and width of a patch; must divide the frame's.
      frames: of a video.
      frame_patch_size: frames of a patch; must divide the video's.
    """

    image_size: int | Sequence[int]
    image_patch_size: int | Sequence[int]
    frames: int
    frame_patch_size: int

    @property
    def layout(self) -> str:
        return 'b t h w c'

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.frames, *pair(self.image_size, 'image_size')

    @property
    def patch_lengths(self) -> tuple[int, ...]:
        return self.frame_patch_size, *pair(self.image_patch_size, 'image_patch_size')

    @property
    def grid(self) -> tuple[int, ...]:
        check_divisible('frames', self.frames, 'frame_patch_size', self.frame_patch_size)
        rows, columns = patch_grid(self.image_size, self.image_patch_size, patches='image_patch_size')
        return self.frames // self.frame_patch_size, rows, columns

    @property
    def stated_size(self) -> str:
        return f'frames={self.frames} with image_size={self.image_size}'

    def reorder_patches(self, state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A PyTorch state dict of vit-pytorch before 1.16.2 for `from_torch`, which takes today's.

        Inside a patch the frames used to be innermost of the three axes, now they are outermost. Names and
        shapes do not tell, so the caller must know: numpy arrays in, numpy arrays out.
        """
        frames, rows, columns = self.patch_lengths

        def reorder(array: np.ndarray) -> np.ndarray:
            pattern = '... (h w t c) -> ... (t h w c)'
            return rearrange(array, pattern, t=frames, h=rows, w=columns)

        by_patch = re.compile(r'to_patch_embedding\.(1\.(weight|bias)|2\.weight)')
        return {name: reorder(array) if by_patch.fullmatch(name) else array for name, array in state_dict.items()}


class NDGrid(Grid, kw_only=True):
    """Grids of 1 to 7 axes, `[b *grid c]`.

    Attributes:
      ndim: number of axes.
      input_shape: lengths of these axes, or one number for all.
      patch_size: of a patch, likewise; must divide the input's.
    """

    ndim: int
    input_shape: int | Sequence[int]
    patch_size: int | Sequence[int]

    @property
    def layout(self) -> str:
        return ' '.join(['b', *'fghijkl'[: self.ndim], 'c'])

    @property
    def lengths(self) -> tuple[int, ...]:
        return self._for_each_axis('input_shape')

    @property
    def patch_lengths(self) -> tuple[int, ...]:
        return self._for_each_axis('patch_size')

    def _for_each_axis(self, name: str) -> tuple[int, ...]:
        value = getattr(self, name)
        if not 1 <= self.ndim <= 7:
            raise ValueError(f'ndim={self.ndim} must be between 1 and 7')
        lengths = (value,) * self.ndim if isinstance(value, int) else tuple(value)
        if len(lengths) != self.ndim:
            raise ValueError(f'{name}={lengths} must be one number or {self.ndim}, for ndim={self.ndim}')
        return lengths

    @property
    def grid(self) -> tuple[int, ...]:
        return patch_counts(self.lengths, self.patch_lengths, 'input_shape')

    @property
    def stated_size(self) -> str:
        return f'input_shape={self.lengths}'
