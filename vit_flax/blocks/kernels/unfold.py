"""Overlapping patches, as `torch.nn.Unfold` cuts them."""

from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from jax import Array, lax

from vit_flax.blocks.checks import pair
from vit_flax.blocks.kernels.pooling import pooled_length


def unfold(x: Array, kernel_size: int | Sequence[int], stride: int | Sequence[int], padding: int = 0) -> Array:
    """Every window of the image as one vector, channels before rows before columns.

    Strided slices, one axis after the other: a gather would be a slow scatter in the backward pass.

    Args:
      x: `[b H W c]`.
      kernel_size: height p and width q of a window.
      stride: steps between windows; a rest at the border that holds no window is left out.
      padding: zeros on each side of height and width.

    Returns:
      `[b h w (c p q)]`.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for axis, kernel, step in zip((1, 3), pair(kernel_size), pair(stride), strict=True):
        steps = pooled_length(x.shape[axis], kernel, step, 0)
        slices = [lax.slice_in_dim(x, i, i + step * (steps - 1) + 1, step, axis) for i in range(kernel)]
        x = jnp.stack(slices, axis + 1)
    return rearrange(x, 'b h p w q c -> b h w (c p q)')
