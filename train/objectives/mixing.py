"""Mixup (arXiv:1710.09412) and cutmix (arXiv:1905.04899): each image takes a part of its neighbour in the batch."""

import jax
import jax.numpy as jnp
from jax import Array


def mix(images: Array, rng: Array, mixup: float, cutmix: float, probability: float) -> tuple[Array, Array]:
    """Images mixed with those before them in the batch, and the mixing coefficient of each.

    Every image draws for itself, which of the two ways if both are on.

    Args:
      images: `[b h w c]`, or videos `[b t h w c]`, all of whose frames are mixed alike.
      rng: decides everything.
      mixup, cutmix: parameter of the symmetric beta distribution of the coefficient; 0 turns this way off.
      probability: that an image is mixed at all.

    Returns:
      Images of the same shape; the coefficient of the image itself `[b]`; that of its `neighbour` is the rest.
    """
    b, (height, width) = len(images), images.shape[-3:-1]
    keys = jax.random.split(rng, 6)
    others = neighbour(images)
    blended = jax.random.beta(keys[0], mixup or 1.0, mixup or 1.0, (b,))
    cut = jax.random.beta(keys[1], cutmix or 1.0, cutmix or 1.0, (b,))

    # The area of the box is that of the coefficient unless it reaches over the border.
    rows, columns = jnp.arange(height), jnp.arange(width)
    inside_rows = _inside(rows, height, cut, jax.random.uniform(keys[2], (b,)))
    inside_columns = _inside(columns, width, cut, jax.random.uniform(keys[3], (b,)))
    box = inside_rows[:, :, None] & inside_columns[:, None, :]

    use_cut = jax.random.uniform(keys[4], (b,)) < (cutmix > 0) / max((mixup > 0) + (cutmix > 0), 1)
    mixed = jax.random.uniform(keys[5], (b,)) < probability * (mixup > 0 or cutmix > 0)
    coefficient = jnp.where(use_cut, 1 - box.mean((1, 2)), blended)
    coefficient = jnp.where(mixed, coefficient, 1.0)
    weight = jnp.where(use_cut[:, None, None], 1.0 - box, coefficient[:, None, None])[..., None]
    weight = jnp.where(mixed[:, None, None, None], weight, 1.0).astype(images.dtype)
    weight = jnp.expand_dims(weight, range(1, images.ndim - 3))
    return weight * images + (1 - weight) * others, coefficient


def neighbour(rows: Array) -> Array:
    """What each row of a batch is mixed with: the row before it."""
    return jnp.roll(rows, 1, axis=0)


def _inside(positions: Array, length: int, coefficient: Array, centre: Array) -> Array:
    """Whether positions along one axis are in the box, bool `[b length]`."""
    half = 0.5 * length * jnp.sqrt(1 - coefficient)[:, None]
    middle = jnp.floor(centre * length)[:, None]
    return (positions >= jnp.floor(middle - half)) & (positions < jnp.floor(middle + half))
