"""Max pooling with torch's padding, over any number of axes."""

import itertools
from collections.abc import Iterator
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vit_flax.blocks.backend import uses_cpu_kernels
from vit_flax.blocks.precision import to_float32


def pooled_length(length: int, size: int, stride: int, padding: int) -> int:
    """What a convolution or pooling window of this size leaves of an axis."""
    return (length + 2 * padding - size) // stride + 1


def max_pool(x: Array, size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Array:
    """Largest value in each window, `[b *space c] -> [b *space' c]`.

    Among equal values the gradient goes to the first, as in torch.

    Args:
      x: `[b *space c]`.
      size, stride, padding: one number for each axis of space; the padding is of no value.
    """
    pool = _shifted if uses_cpu_kernels() else _native
    return pool(x, size, stride, padding)


def _native(x: Array, size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Array:
    pairs = [(0, 0), *((side, side) for side in padding), (0, 0)]
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, (1, *size, 1), (1, *stride, 1), pairs)


# XLA's gradient of a window maximum runs on one core of a CPU; this one is a few fused passes.
@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _shifted(x: Array, size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Array:
    return _with_winner(x, size, stride, padding)[0]


def _windows(
    x: Array, size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], outside: float = -jnp.inf
) -> Iterator[Array]:
    """The values under each position of the window, first position first; `outside` is the padding."""
    b, *space, c = x.shape
    padded = lax.pad(x, jnp.array(outside, x.dtype), [(0, 0, 0), *((p, p, 0) for p in padding), (0, 0, 0)])
    steps = [pooled_length(*axis) for axis in zip(space, size, stride, padding, strict=True)]
    for place in itertools.product(*map(range, size)):
        ends = [i + s * (n - 1) + 1 for i, s, n in zip(place, stride, steps, strict=True)]
        yield lax.slice(padded, (0, *place, 0), (b, *ends, c), (1, *stride, 1))


def _with_winner(x, size, stride, padding):
    """The largest value of each window and its index, the first of equal ones."""
    first, *others = _windows(x, size, stride, padding)
    largest, winner = first, jnp.zeros(first.shape, jnp.uint16)
    for index, values in enumerate(others, start=1):
        winner = jnp.where(values > largest, jnp.uint16(index), winner)
        largest = jnp.maximum(values, largest)
    return largest, winner


@_shifted.defjvp
def _(size, stride, padding, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    largest, winner = _with_winner(x, size, stride, padding)
    # in float32, since its transpose adds up the windows that a value wins
    windows = enumerate(_windows(to_float32(x_dot), size, stride, padding, outside=0.0))
    tangent = reduce(jnp.add, (jnp.where(winner == index, values, 0) for index, values in windows))
    return largest, tangent.astype(x.dtype)
