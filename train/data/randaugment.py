"""RandAugment, arXiv:1909.13719: a few random operations from a fixed list, all of one strength.

The list is the paper's, the ranges are those of AutoAugment, arXiv:1805.09501; operations that go both ways take the
way at random, and the strength varies a little from image to image, as in arXiv:2012.12877.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from train.data import pillow

# The colour of what a shear or a turn uncovers.
GREY = 128

Operation = Callable[[Image.Image, float], Image.Image]


def randaugment(
    image: np.ndarray, rng: np.random.Generator, operations: int, magnitude: float, spread: float
) -> np.ndarray:
    """Bytes `[h w c]`, of 1 or 3 channels, changed by some operations.

    Args:
      image: uint8 `[h w c]`.
      rng: draws the operations.
      operations: how many, with repetition.
      magnitude: their strength, from 0 to 10.
      spread: standard deviation of the strength.
    """
    picture = pillow.to_picture(np.ascontiguousarray(image))
    for index in rng.integers(0, len(OPERATIONS), operations):
        strength = min(max((magnitude + spread * rng.standard_normal()) / 10, 0.0), 1.0)
        sign = 1.0 if rng.random() < 0.5 else -1.0
        picture = OPERATIONS[index](picture, sign * strength)
    return pillow.to_array(picture)


def _affine(picture: Image.Image, a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 1, f: float = 0):
    fill = GREY if picture.mode == 'L' else (GREY,) * 3
    return picture.transform(
        picture.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR, fillcolor=fill
    )


def _rotate(picture: Image.Image, strength: float) -> Image.Image:
    fill = GREY if picture.mode == 'L' else (GREY,) * 3
    return picture.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=fill)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, strength: kind(picture).enhance(1 + 0.9 * strength)


OPERATIONS: tuple[Operation, ...] = (
    lambda picture, strength: picture,
    lambda picture, strength: ImageOps.autocontrast(picture),
    lambda picture, strength: ImageOps.equalize(picture),
    lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
    lambda picture, strength: ImageOps.solarize(picture, round(256 * (1 - abs(strength)))),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _rotate,
    lambda picture, strength: _affine(picture, b=0.3 * strength),
    lambda picture, strength: _affine(picture, d=0.3 * strength),
    lambda picture, strength: _affine(picture, c=0.45 * strength * picture.width),
    lambda picture, strength: _affine(picture, f=0.45 * strength * picture.height),
)
