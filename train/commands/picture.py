"""An image from somebody's disk as an image that the network knows: any format, orientation, depth and size."""

import dataclasses

import numpy as np
from PIL import Image, ImageOps

from train.data import pillow
from train.data.augment import Augment
from train.errors import UserError
from train.places import place

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def read_picture(path: str, channels: int) -> np.ndarray:
    """The first image of a file, turned upright, uint8 `[h w c]`.

    What shows through is laid on white; 16 bits and numbers are brought to 8 bits; colours become grey, and grey
    becomes colour, if the network wants it so.

    Raises:
      UserError: no such file, no image, too large to be opened safely, or nothing for this many channels.
    """
    if channels not in MODES:
        raise UserError(f'the run takes images of {channels} channels: an image has {", ".join(map(str, MODES))}')
    file = place(path, 'IMAGE')
    if not file.is_file():
        raise UserError(f'{path} is a folder: name images' if file.is_dir() else f'{path}: there is no such file')
    try:
        with pillow.open_picture(file) as picture:
            return pillow.to_array(pillow.in_mode(ImageOps.exif_transpose(picture), MODES[channels]))
    except Image.DecompressionBombError as error:
        raise UserError(
            f'{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, which could be a trap: make it smaller first'
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f'{path} is no image of a kind that Pillow knows') from error
    except Exception as error:  # Pillow's readers raise whatever they met
        raise UserError(f'{path} is a damaged image: {" ".join(str(error).split()) or type(error).__name__}') from error


def as_seen(image: np.ndarray, augment: Augment, shape: tuple[int, ...]) -> np.ndarray:
    """An image of any size as the run evaluates its own, `[h w c]`: resized, of a photograph the middle."""
    height, width = shape[:2]
    if height == width:
        return dataclasses.replace(augment, image_size=height).evaluate({'image': image})['image']
    across, down = image.shape[1] / width, image.shape[0] / height
    w, h = width * min(across, down), height * min(across, down)
    left, top = (image.shape[1] - w) / 2, (image.shape[0] - h) / 2
    return pillow.crop(image, (left, top, left + w, top + h), (height, width))
