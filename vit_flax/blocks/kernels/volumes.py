"""Convolution over time, height and width, in a form that XLA can differentiate quickly on a CPU."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from vit_flax.blocks.backend import uses_cpu_kernels
from vit_flax.blocks.kernels.pooling import pooled_length


def conv_3d(x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[int]) -> Array:
    """Convolution of a volume, `[b t h w c], [i j k c d] -> [b t' h' w' d]`.

    On a CPU the frames under the kernel become channels of a 2-d convolution: XLA's gradient of a
    3-d one takes there a hundred times as long.

    Args:
      x: `[b t h w c]`.
      kernel: `[i j k c d]`.
      strides, padding: one number for each of the three axes; the padding is zeros, equal on both sides.
    """
    convolve = _by_frames if uses_cpu_kernels() else _native
    return convolve(x, kernel, strides, padding)


def _native(x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[int]) -> Array:
    sides = [(side, side) for side in padding]
    return lax.conv_general_dilated(x, kernel, strides, sides, dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC'))


def _by_frames(x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[int]) -> Array:
    (batch, frames, *image), (taps, *_, features) = x.shape, kernel.shape
    steps = pooled_length(frames, taps, strides[0], padding[0])
    x = jnp.pad(x, ((0, 0), (padding[0], padding[0]), (0, 0), (0, 0), (0, 0)))
    length = strides[0] * (steps - 1) + 1
    under = [lax.slice_in_dim(x, i, i + length, strides[0], axis=1) for i in range(taps)]
    x = jnp.concatenate(under, axis=-1)
    x = x.reshape(batch * steps, *image[:2], x.shape[-1])
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, features)
    sides = [(side, side) for side in padding[1:]]
    x = lax.conv_general_dilated(x, flat, strides[1:], sides, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return x.reshape(batch, steps, *x.shape[1:])
