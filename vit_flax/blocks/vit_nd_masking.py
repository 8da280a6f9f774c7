"""Causal attention along some axes of a grid of tokens; upstream module `vit_nd_masking`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MaskFn = Callable[[Any, Any, Any, Any], Any]


def nd_causal_mask_fn(num_patches_per_dim: Sequence[int], causal_dims: Sequence[int], has_cls: bool = False) -> MaskFn:
    """An attention mask as a function `(batch, head, query, key) -> bool` of integers or integer arrays.

    Tokens are counted with the first axis outermost. A query attends to no key after it along
    one of `causal_dims`. With `has_cls` the token 0 has no position: it attends to all tokens and all attend to it.
    """
    lengths = tuple(num_patches_per_dim)

    def mask_fn(batch: Any, head: Any, query: Any, key: Any) -> Any:
        free = (query == 0) | (key == 0) if has_cls else False
        query, key = query - int(has_cls), key - int(has_cls)
        allowed: Any = True
        for axis in causal_dims:
            step = math.prod(lengths[axis + 1 :])
            allowed = allowed & (query // step % lengths[axis] >= key // step % lengths[axis])
        return allowed | free

    return mask_fn


def get_nd_causal_mask_fn(
    num_patches_per_dim: Sequence[int],
    causal_dims: int | Sequence[int] | None,
    ndim: int | None = None,
    has_cls: bool = False,
) -> MaskFn | None:
    """The same for one axis or several, or None if `causal_dims` is.

    Raises:
      ValueError: one of `causal_dims` is none of the `ndim` axes.
    """
    if causal_dims is None:
        return None
    axes = (causal_dims,) if isinstance(causal_dims, int) else tuple(causal_dims)
    if ndim is not None and not all(0 <= axis < ndim for axis in axes):
        raise ValueError(f'causal_dims={axes} must be axes between 0 and {ndim - 1}')
    return nd_causal_mask_fn(num_patches_per_dim, axes, has_cls)


def dense_mask(mask_fn: MaskFn, seq_len: int) -> np.ndarray:
    """The rule as an array for `attend`, bool `[n n]`, queries first."""
    positions = np.arange(seq_len)
    return np.broadcast_to(mask_fn(0, 0, positions[:, None], positions), (seq_len, seq_len))
