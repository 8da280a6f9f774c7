"""Depthwise convolution: one kernel a channel.

XLA has no fast grouped convolution for CPUs. There the sum over the kernel's taps is written as
shifted multiply-adds, which XLA fuses into one pass, and the kernel's gradient goes through the
image row by row, so that it stays in the cache; elsewhere the native operation is used.
`benchmarks/depthwise.py` measures both.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from vit_flax.blocks.precision import to_float32


def depthwise_conv(x: Array, kernel: Array, stride: int = 1, padding: int = 0) -> Array:
    """Convolves each channel with its own kernel.

    Differentiable in reverse mode, any number of times; not in pure forward mode (`jax.jvp` alone).

    Args:
      x: `[b h w c]`.
      kernel: `[kh kw 1 c]`.
      stride: step along h and w.
      padding: zeros on each side of h and w.

    Returns:
      `[b h' w' c]` with `h' = (h + 2 * padding - kh) // stride + 1`.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _shifted(x, kernel, stride, padding),
        default=lambda x, kernel: _native(x, kernel, stride, padding),
    )


def _native(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
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


def _forward(x: Array, kernel: Array, stride: int, padding: int) -> tuple[Array, tuple[Array, Array]]:
    return _shifted(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: int, saved: tuple[Array, Array], out_bar: Array) -> tuple[Array, Array]:
    x, kernel = saved
    x_bar = _image_gradient(out_bar, kernel, stride, padding, x.shape)
    return x_bar, _kernel_gradient(out_bar, _pad(x, padding), stride, kernel.shape)


def _image_gradient(out_bar: Array, kernel: Array, stride: int, padding: int, shape: tuple[int, ...]) -> Array:
    """The same sum with the kernel turned round, over the gradient with `stride - 1` zeros in between."""
    spread = [
        (size - 1 - padding, length + padding - (stride * (steps - 1) + 1), stride - 1)
        for size, length, steps in zip(kernel.shape[:2], shape[1:3], out_bar.shape[1:3], strict=True)
    ]
    spread_out = lax.pad(out_bar, jnp.zeros((), out_bar.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return _sum_of_shifts(spread_out, kernel[::-1, ::-1], 1)


def _kernel_gradient(out_bar: Array, padded: Array, stride: int, shape: tuple[int, ...]) -> Array:
    kh, kw, _, channels = shape
    b, rows, columns, _ = out_bar.shape
    end = stride * (columns - 1) + 1

    def add_row(row, total):
        of_row = lax.dynamic_index_in_dim(out_bar, row, axis=1, keepdims=False)
        lines = lax.dynamic_slice_in_dim(padded, row * stride, kh, axis=1)
        taps = [
            (to_float32(lax.slice(lines[:, i], (0, j, 0), (b, j + end, channels), (1, stride, 1))) * of_row).sum(0)
            for i in range(kh)
            for j in range(kw)
        ]
        return total + jnp.stack(taps)

    start = jnp.zeros((kh * kw, columns, channels), jnp.promote_types(padded.dtype, jnp.float32))
    return lax.fori_loop(0, rows, add_row, start).sum(1).reshape(shape).astype(padded.dtype)


_shifted.defvjp(_forward, _backward)
