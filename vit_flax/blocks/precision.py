"""What is computed in float32 whatever the dtype of tokens and parameters.

Tokens, factors of matrix products and parameters may have 16 bits; scores, softmax, norms, sums over many tokens and
running averages may not: their rounding errors do not average out. The result is cast back once, at the end.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax import Array


def to_float32(x: Any) -> Array:
    """In float32 at least: 16-bit floats and integers become float32, float64 stays."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def add(x: Array, y: Array) -> Array:
    """`x + y` in the dtype of x, for a bias, a position or another `y` that is broadcast.

    The gradient of `y` is a sum over the axes of the broadcast: it is taken in float32.
    """
    return (to_float32(x) + to_float32(y)).astype(x.dtype)


def multiply(x: Array, y: Array | float) -> Array:
    """`x * y` in the dtype of x, for a factor `y` that is broadcast; its gradient is summed in float32."""
    return (to_float32(x) * to_float32(y)).astype(x.dtype)


def in_float32(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """An elementwise function whose value and derivative are computed in float32, in the dtype of its argument."""

    @wraps(function)
    def widened(x: Array) -> Array:
        return function(to_float32(x)).astype(x.dtype)

    return widened


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def einsum_float32(equation: str, x: Array, y: Array) -> Array:
    """`jnp.einsum(equation, x, y)` with a float32 result at least.

    The factors keep their 16 bits, in the derivatives too: those are the fast products of an accelerator.
    """
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return jnp.einsum(equation, x, y, preferred_element_type=dtype)


@einsum_float32.defjvp
def _(equation: str, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, y), (x_dot, y_dot) = primals, tangents
    out = einsum_float32(equation, x, y)
    of_x, of_y = jnp.einsum(equation, x_dot, y), jnp.einsum(equation, x, y_dot)
    return out, of_x.astype(out.dtype) + of_y.astype(out.dtype)


def repeat(x: Array, pattern: str, **lengths: int) -> Array:
    """`einops.repeat`, for a learned token that every image gets; its gradient is summed in float32."""
    return einops.repeat(to_float32(x), pattern, **lengths).astype(x.dtype)


def take_rows(table: Array, index: Any) -> Array:
    """`table[index]`, for a learned table whose rows are read many times; their gradients are summed in float32."""
    return to_float32(table)[index].astype(table.dtype)
