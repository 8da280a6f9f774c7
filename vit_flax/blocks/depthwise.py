"""Depthwise convolution: one kernel a channel.

XLA has no fast grouped convolution for CPUs. There the sum over the kernel's taps is written as
shifted multiply-adds, which XLA fuses into one pass; elsewhere the native operation is used.
`benchmarks/depthwise.py` measures both.
"""

import jax.numpy as jnp
from jax import Array, lax


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


def _shifted(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    kh, kw, _, channels = kernel.shape
    b, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = (h + 2 * padding - kh) // stride + 1
    columns = (w + 2 * padding - kw) // stride + 1
    out = jnp.zeros((b, rows, columns, channels), x.dtype)
    for i in range(kh):
        for j in range(kw):
            end = (b, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, channels)
            window = lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))
            out = out + window * kernel[i, j, 0]
    return out
