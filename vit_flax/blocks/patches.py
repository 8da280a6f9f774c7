"""Images to patch tokens."""

import itertools
import math
from collections.abc import Callable, Sequence

from flax import linen as nn
from jax import Array

from vit_flax.blocks.checks import pair, patch_counts
from vit_flax.blocks.module import Module
from vit_flax.blocks.torch_like import Dense, LayerNorm

INPUTS = {1: 'length of the series', 2: 'height and width of the images', 3: 'frames, height and width of the videos'}


def count_patches(x: Array, patch: Sequence[int]) -> tuple[int, ...]:
    """Patches along each axis of an input `[b *lengths c]`; raises if they do not tile it."""
    return patch_counts(x.shape[1:-1], patch, f'the {INPUTS.get(len(patch), "shape of the input")}')


def patchify(x: Array, patch_size: int | Sequence[int]) -> Array:
    """Cuts images into patches, `[b (h p) (w q) c] -> [b h w (p q c)]`; grids of other rank likewise."""
    parts = pair(patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    steps = count_patches(x, parts)
    batch, channels = x.shape[0], x.shape[-1]
    x = x.reshape(batch, *itertools.chain(*zip(steps, parts, strict=True)), channels)
    axes = range(1, 2 * len(parts) + 1)
    x = x.transpose(0, *axes[::2], *axes[1::2], len(axes) + 1)
    return x.reshape(batch, *steps, math.prod(parts) * channels)


def unpatchify(patches: Array, grid: Sequence[int], patch_size: int | Sequence[int]) -> Array:
    """Puts patches together, the inverse of `patchify`: `[b n (p q c)] -> [b (h p) (w q) c]` with `grid=(h, w)`."""
    parts = pair(patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    x = patches.reshape(patches.shape[0], *grid, *parts, patches.shape[-1] // math.prod(parts))
    axes = range(1, len(parts) + 1)
    x = x.transpose(0, *itertools.chain(*((axis, axis + len(parts)) for axis in axes)), x.ndim - 1)
    return x.reshape(x.shape[0], *(step * part for step, part in zip(grid, parts, strict=True)), x.shape[-1])


class PatchProjection(Module):
    """Linear on each patch and no norm, `[b H W c] -> [b h w d]`.

    As for `patchify`, a patch of other than two axes is one of a grid of as many.
    """

    patch_size: int | Sequence[int]
    dim: int

    def __call__(self, images: Array) -> Array:
        return self.embed(patchify(images, self.patch_size))

    @nn.compact
    def embed(self, patches: Array) -> Array:
        """Patches that are cut already, `[... p] -> [... d]`."""
        return Dense(self.dim, **self.precision, name='projection')(patches)

    torch_names = {'projection': '1'}


class PatchEmbedding(Module):
    """LayerNorm, Linear, LayerNorm on each patch, `[b H W c] -> [b h w d]`; `norm` is a constructor."""

    patch_size: int | Sequence[int]
    dim: int
    norm: Callable[..., nn.Module] = LayerNorm

    def __call__(self, images: Array) -> Array:
        return self.embed(patchify(images, self.patch_size))

    @nn.compact
    def embed(self, patches: Array) -> Array:
        """The values of patches, `[... p] -> [... d]`."""
        x = self.norm(**self.precision, name='patch_norm')(patches)
        x = Dense(self.dim, **self.precision, name='projection')(x)
        return self.norm(**self.precision, name='norm')(x)

    torch_names = {'patch_norm': '1', 'projection': '2', 'norm': '3'}


class NormedPatchProjection(PatchProjection):
    """Linear and LayerNorm on each patch, `[b H W c] -> [b h w d]`."""

    @nn.compact
    def embed(self, patches: Array) -> Array:
        x = Dense(self.dim, **self.precision, name='projection')(patches)
        return LayerNorm(**self.precision, name='norm')(x)

    torch_names = {'projection': '1', 'norm': '2'}
