"""Depthwise convolution: one kernel a channel.

XLA has no fast grouped convolution for CPUs. There the sum over the kernel's taps is written as
shifted multiply-adds, which XLA fuses into one pass, and the kernel's gradient goes through the
image row by row, so that it stays in the cache; elsewhere the native operation is used.
`benchmarks/depthwise.py` measures both.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from vit_flax.blocks.backend import uses_cpu_kernels
from vit_flax.blocks.precision import to_float32


def depthwise_conv(x: Array, kernel: Array, stride: int = 1, padding: int = 0) -> Array:
    """Convolves each channel with its own kernel.

    Args:
      x: `[b h w c]`.
      kernel: `[kh kw 1 c]`.
      stride: step along h and w.
      padding: zeros on each side of h and w.

    Returns:
      `[b h' w' c]` with `h' = (h + 2 * padding - kh) // stride + 1`.
    """
    convolve = _shifted if uses_cpu_kernels() else _native
    return convolve(x, kernel, stride, padding)


def _native(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _shifted(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return _sum_of_shifts(_pad(x, padding), kernel, stride)


def _pad(x: Array, padding: int) -> Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _sum_of_shifts(x: Array, kernel: Array, stride: int) -> Array:
    kh, kw, _, channels = kernel.shape
    b, h, w, _ = x.shape
    rows, columns = (h - kh) // stride + 1, (w - kw) // stride + 1
    out = jnp.zeros((b, rows, columns, channels), jnp.promote_types(x.dtype, jnp.float32))
    for i in range(kh):
        for j in range(kw):
            end = (b, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, channels)
            window = lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))
            out = out + to_float32(window) * to_float32(kernel[i, j, 0])
    return out.astype(x.dtype)


@partial(_shifted.defjvp, symbolic_zeros=True)
def _(stride: int, padding: int, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    """Each tangent in the form whose transpose is fast: gradients are what these are computed for."""
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    out = _shifted(x, kernel, stride, padding)
    out_dot = jnp.zeros(out.shape, jnp.promote_types(out.dtype, jnp.float32))
    if not isinstance(x_dot, SymbolicZero):
        out_dot = out_dot + _sum_of_pads(x_dot, kernel, stride, padding, out.shape)
    if not isinstance(kernel_dot, SymbolicZero):
        out_dot = out_dot + _row_by_row(_pad(x, padding), kernel_dot, stride, out.shape)
    return out, out_dot.astype(out.dtype)


def _sum_of_pads(x: Array, kernel: Array, stride: int, padding: int, shape: tuple[int, ...]) -> Array:
    """The convolution, from each pixel to the outputs that it reaches.

    Transposed, it is a sum of shifts again, over the output's gradient with `stride - 1` zeros in between.
    """
    kh, kw, *_ = kernel.shape
    x, kernel = to_float32(x), to_float32(kernel)
    # pixels of padding beyond all that the kernel reaches from the image
    beyond = [max(padding - size + 1, 0) for size in (kh, kw)]
    total = jnp.zeros((), x.dtype)
    for i in range(kh):
        for j in range(kw):
            sides = [
                (size - 1 - tap + extra, tap + extra, 0)
                for size, tap, extra in zip((kh, kw), (i, j), beyond, strict=True)
            ]
            total = total + lax.pad(x * kernel[i, j, 0], jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    start = [size - 1 - padding + extra for size, extra in zip((kh, kw), beyond, strict=True)]
    end = [first + stride * (steps - 1) + 1 for first, steps in zip(start, shape[1:3], strict=True)]
    return lax.slice(total, (0, *start, 0), (shape[0], *end, shape[3]), (1, stride, stride, 1))


def _row_by_row(padded: Array, kernel: Array, stride: int, shape: tuple[int, ...]) -> Array:
    """The convolution of a padded image, one row after the other.

    Transposed, it goes through the image row by row, so that what it adds up stays in the cache.
    """
    kh, kw, _, channels = kernel.shape
    b, rows, columns, _ = shape
    end = stride * (columns - 1) + 1
    taps = jnp.broadcast_to(to_float32(kernel).reshape(kh * kw, 1, channels), (kh * kw, columns, channels))

    # without the checkpoint every line would be stored, once for each row of the kernel
    @partial(jax.checkpoint, prevent_cse=False)
    def one_row(padded: Array, taps: Array, row: Array) -> Array:
        lines = lax.dynamic_slice_in_dim(padded, row * stride, kh, axis=1)
        windows = [
            lax.slice(lines[:, i], (0, j, 0), (b, j + end, channels), (1, stride, 1))
            for i in range(kh)
            for j in range(kw)
        ]
        terms = (to_float32(window) * tap for window, tap in zip(windows, jnp.unstack(taps), strict=True))
        return reduce(jnp.add, terms)

    # added in place: rows stacked by a scan would have to be transposed
    def add_row(row: Array, out: Array) -> Array:
        return out.at[:, row].add(one_row(padded, taps, row), mode='promise_in_bounds')

    return lax.fori_loop(0, rows, add_row, jnp.zeros(shape, taps.dtype))
