"""Pillow on arrays: grey, coloured, and with any other number of channels."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from train.sources.source import check_file

# `open_picture` refuses what these warn of.
warnings.simplefilter('ignore', Image.DecompressionBombWarning)

Function = Callable[[Image.Image], Image.Image]


def each(image: np.ndarray, function: Function) -> np.ndarray:
    """Applies a function of images to an image `[h w c]`; of other than 1 or 3 channels to each of them alone.

    Bytes stay bytes; other numbers are taken as float32, one channel at a time.
    """
    if image.dtype == np.uint8 and image.shape[2] in (1, 3):
        return to_array(function(to_picture(image)))
    channels = [
        image[..., i] if image.dtype == np.uint8 else image[..., i].astype(np.float32) for i in range(image.shape[2])
    ]
    return np.stack([np.asarray(function(Image.fromarray(channel))) for channel in channels], axis=-1)


def crop(image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The box `(left, top, right, bottom)` of an image `[h w c]`, resized to `(h, w)`."""
    return each(image, lambda part: part.resize((size[1], size[0]), Image.Resampling.BICUBIC, box, reducing_gap=3.0))


def open_picture(file: str | Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Image.Image:
    """The first image of a file, not yet decoded.

    Args:
      file: a path or an open file.
      formats: that are tried; None for all that Pillow knows.

    Raises:
      Image.DecompressionBombError: it has more pixels than `Image.MAX_IMAGE_PIXELS`, which could be a trap. Pillow
        itself warns of these, and refuses only what is twice as large.
      OSError: it is no file, such as a pipe, which would be waited for.
    """
    if isinstance(file, str | Path):
        check_file(file)
    opened = Image.open(file, formats=formats)
    limit = Image.MAX_IMAGE_PIXELS
    if limit and opened.width * opened.height > limit:
        opened.close()
        raise Image.DecompressionBombError(f'it has {opened.width}x{opened.height} pixels, more than {limit:,}')
    return opened


def to_picture(image: np.ndarray) -> Image.Image:
    """Bytes `[h w c]` of 1 or 3 channels as a grey or coloured image."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def to_array(picture: Image.Image) -> np.ndarray:
    """The image as `[h w c]`."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """An image of any depth in one of the modes L, RGB and RGBA; without an A, what shows through is laid on white."""
    if picture.mode.startswith(('I', 'F')):
        values = np.nan_to_num(np.asarray(picture, np.float64))
        # Whole numbers of 16 bits, or fractions, or bytes that were stored as fractions.
        white = 65535 if picture.mode.startswith('I') else 1 if values.max(initial=0) <= 1 else 255
        picture = Image.fromarray(np.round(255 * (values / white).clip(0, 1)).astype(np.uint8))
    if mode != 'RGBA' and picture.has_transparency_data:
        above = picture.convert('RGBA')
        picture = Image.alpha_composite(Image.new('RGBA', above.size, 'white'), above)
    return picture.convert(mode)
