"""Random changes of images: colours, mirror, blur, solarisation. Pure functions of a key, to be compiled.

Each image of a batch draws for itself. Values are from 0 to 1. Colours need three channels; images of another number of
channels keep their hue and saturation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Weights of red, green and blue in brightness, ITU-R 601.
GREY = np.array([0.299, 0.587, 0.114])


def sometimes(rng: Array, probability: float, changed: Array, images: Array) -> Array:
    """Each image changed with this probability, as it is in `changed`."""
    selected = jax.random.uniform(rng, (len(images),)) < probability
    return jnp.where(selected[:, None, None, None], changed, images)


def mirror(images: Array) -> Array:
    """Horizontal flip."""
    return images[:, :, ::-1]


def grey(images: Array) -> Array:
    """Brightness in all three channels."""
    if images.shape[-1] != 3:
        return images
    return jnp.broadcast_to((images * GREY.astype(images.dtype)).sum(axis=-1, keepdims=True), images.shape)


def blend(images: Array, other: Array, factor: Array) -> Array:
    """`factor` of the image and the rest of another, within 0 and 1; factor `[b]`."""
    factor = factor[:, None, None, None].astype(images.dtype)
    return jnp.clip(images * factor + other * (1 - factor), 0, 1)


def turn_hue(images: Array, turns: Array) -> Array:
    """Hue shifted by a number of turns of the colour circle, `[b h w 3], [b]`."""
    if images.shape[-1] != 3:
        return images
    red, green, blue = (images[..., i] for i in range(3))
    value, least = images.max(axis=-1), images.min(axis=-1)
    chroma = value - least
    safe = jnp.where(chroma > 0, chroma, 1)
    from_green_on = jnp.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    hue = jnp.where(value == red, (green - blue) / safe % 6, from_green_on)
    hue = (hue + 6 * turns[:, None, None].astype(images.dtype)) % 6
    place = (jnp.asarray([5.0, 3.0, 1.0], images.dtype) + hue[..., None]) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def jitter(rng: Array, images: Array, brightness: float, contrast: float, saturation: float, hue: float) -> Array:
    """Brightness, contrast and saturation scaled by 1 plus or minus up to these, hue shifted by up to `hue` turns.

    In this order; torchvision's takes a random one.
    """
    keys = jax.random.split(rng, 4)

    def factor(index: int, spread: float) -> Array:
        return jax.random.uniform(keys[index], (len(images),), minval=max(0.0, 1 - spread), maxval=1 + spread)

    images = blend(images, jnp.zeros_like(images), factor(0, brightness))
    mean = grey(images).mean(axis=(1, 2, 3), keepdims=True)
    images = blend(images, mean, factor(1, contrast))
    images = blend(images, grey(images), factor(2, saturation))
    return turn_hue(images, jax.random.uniform(keys[3], (len(images),), minval=-hue, maxval=hue))


def blur(images: Array, sigma: Array, size: int) -> Array:
    """Gaussian blur with a window of `size` pixels, edges reflected; sigma `[b]` in pixels."""
    reach = size // 2
    offsets = jnp.arange(-reach, reach + 1)
    weights = jnp.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(images.dtype)
    for axis in (1, 2):
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
        wide = jnp.pad(images, padding, mode='reflect')
        shifted = (jax.lax.slice_in_dim(wide, i, i + images.shape[axis], axis=axis) for i in range(size))
        images = jnp.stack([part * weights[:, i, None, None, None] for i, part in enumerate(shifted)]).sum(axis=0)
    return images


def solarise(images: Array, threshold: float = 0.5) -> Array:
    """Pixels above the threshold are inverted."""
    return jnp.where(images >= threshold, 1 - images, images)


def byol_augment(rng: Array, images: Array) -> Array:
    """Upstream's mixture: jitter, grey, mirror, blur with a window of 3 pixels."""
    keys = jax.random.split(rng, 6)
    images = sometimes(keys[0], 0.3, jitter(keys[1], images, 0.8, 0.8, 0.8, 0.2), images)
    images = sometimes(keys[2], 0.2, grey(images), images)
    images = sometimes(keys[3], 0.5, mirror(images), images)
    sigma = jax.random.uniform(keys[5], (len(images),), minval=1.0, maxval=2.0)
    return sometimes(keys[4], 0.2, blur(images, sigma, 3), images)


def dino_augment(rng: Array, images: Array, blurred: float = 0.5, solarised: float = 0.0) -> Array:
    """DINO's (arXiv:2104.14294, after BYOL's): mirror, jitter, grey, blur and solarisation with these probabilities."""
    keys = jax.random.split(rng, 7)
    images = sometimes(keys[0], 0.5, mirror(images), images)
    images = sometimes(keys[1], 0.8, jitter(keys[2], images, 0.4, 0.4, 0.2, 0.1), images)
    images = sometimes(keys[3], 0.2, grey(images), images)
    if blurred:
        # a tenth of the image, as SimCLR's (arXiv:2002.05709)
        size = max(3, round(0.1 * min(images.shape[1:3])) // 2 * 2 + 1)
        sigma = jax.random.uniform(keys[5], (len(images),), minval=0.1, maxval=2.0)
        images = sometimes(keys[4], blurred, blur(images, sigma, size), images)
    return sometimes(keys[6], solarised, solarise(images), images)


def photometric_augment(rng: Array, videos: Array) -> Array:
    """LeVJEPA's for small crops: mirror, jitter and grey, the same for all frames of a video, `[b t h w c]`."""
    keys = jax.random.split(rng, 4)
    # frames one below the other: what follows knows no height
    images = videos.reshape(len(videos), -1, *videos.shape[3:])
    images = sometimes(keys[0], 0.5, mirror(images), images)
    images = sometimes(keys[1], 0.8, jitter(keys[2], images, 0.4, 0.4, 0.2, 0.1), images)
    return sometimes(keys[3], 0.2, grey(images), images).reshape(videos.shape)
