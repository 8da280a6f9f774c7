"""Attention of long inputs: the map of a block of queries at a time, formed again for the gradient.

What a training step keeps then grows with the length, and not with its square (arXiv:2112.05682). Every block has all
keys, so that a row of the map is normalised as a whole, whatever is added to its scores; derivatives in forward and in
reverse mode are those of the plain form.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

# Scores of a head that are formed together, in float32 4 MiB.
SCORES = 2**20
# From this many on, the memory of one map of a head, 32 MiB, is worth the time of forming it twice: up to 2,048 tokens
# blocks took 1.4 to 1.9 times as long on a CPU, forward and backward, at 4,096 as long as the whole.
LONG = 2**23

Attend = Callable[[Array, Array, Array, Array | None, Array | None, Array | None], Array]


def is_long(q: Array, k: Array) -> bool:
    """Whether queries `[b e n k]` and keys `[b e m k]` are to be computed in blocks."""
    return q.shape[-2] * k.shape[-2] >= LONG


def in_query_blocks(
    attend: Attend, q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None, key: Array | None
) -> Array:
    """`attend(q, k, v, bias, mask, key)`, with some of the queries at a time.

    Args:
      attend: attention of queries `[b e i k]`, each by itself.
      q: `[b e n k]`.
      k, v: `[b e m k]`.
      bias, mask: broadcast to `[b e n m]`.
      key: of what is random; each block gets one of its own.
    """
    length = q.shape[-2]
    rows = max(1, SCORES // k.shape[-2])
    blocks = -(-length // rows)
    rows = -(-length // blocks)

    def split(x: Array | None) -> Array | None:
        """`[... n k] -> [blocks ... rows k]`, if it has queries. A block has queries from everywhere: those that lie
        on several devices stay there."""
        if x is None or x.ndim < 2 or x.shape[-2] == 1:
            return None
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rows * blocks - length), (0, 0)])
        return jnp.moveaxis(x.reshape(*x.shape[:-2], rows, blocks, x.shape[-1]), -2, 0)

    @jax.checkpoint
    def of_block(block: tuple[Array, Array | None, Array | None, Array]) -> Array:
        q, own_bias, own_mask, index = block
        return attend(
            q,
            k,
            v,
            bias if own_bias is None else own_bias,
            mask if own_mask is None else own_mask,
            None if key is None else jax.random.fold_in(key, index),
        )

    out = lax.map(of_block, (split(q), split(bias), split(mask), jnp.arange(blocks)))
    out = jnp.moveaxis(out, 0, -2)
    return out.reshape(*out.shape[:-3], rows * blocks, out.shape[-1])[..., :length, :]
