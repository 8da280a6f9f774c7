"""Images as published weights take them: resized, cropped and normalised as in evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vit_flax.blocks.checks import check_choice

if TYPE_CHECKING:
    from PIL import Image

# In the order of Pillow's numbers.
INTERPOLATIONS = 'nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming'
CROP_MODES = 'center', 'squash', 'border'


@dataclass(frozen=True)
class Preprocessing:
    """A function of an image to an array `[h w c]`: timm's transform of evaluation.

    Attributes:
      size: height and width of the result, in pixels.
      mean, std: of each channel, of values between 0 and 1.
      interpolation: Pillow's, by name.
      crop_pct: share of the resized image's side that is kept.
      crop_mode: 'center' resizes the shorter side and cuts the middle out; 'squash' resizes both sides, whatever the
        aspect ratio; 'border' resizes the longer side and adds borders in the colour of the mean.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = 'bicubic'
    crop_pct: float = 0.875
    crop_mode: Literal['center', 'squash', 'border'] = 'center'

    def __post_init__(self) -> None:
        check_choice('interpolation', self.interpolation, INTERPOLATIONS)
        check_choice('crop_mode', self.crop_mode, CROP_MODES)
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f'crop_pct={self.crop_pct} must be above 0, and 1 at most')
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise ValueError(f'mean={self.mean} and std={self.std} must be of 1 or 3 channels each, std above 0')

    def __call__(self, image: 'Image.Image | np.ndarray') -> np.ndarray:
        """Args:
          image: of Pillow, of any mode; or an array `[h w]`, `[h w 1]` or `[h w 3]` of bytes.

        Returns:
          `[h w c]` in float32.
        """
        values = self.crop(image).astype(np.float32) / np.float32(255)
        return (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def crop(self, image: 'Image.Image | np.ndarray') -> np.ndarray:
        """What is normalised then: the resized and cropped image, `[h w c]` in uint8."""
        from PIL import Image

        picture = _picture(image, 'L' if len(self.mean) == 1 else 'RGB')
        whole = tuple(math.floor(length / self.crop_pct) for length in self.size)
        height, width = picture.height, picture.width
        if self.crop_mode == 'squash':
            resized = whole
        elif self.crop_mode == 'center' and whole[0] == whole[1]:
            short = min(height, width)
            resized = tuple(
                whole[0] if length == short else int(whole[0] * length / short) for length in (height, width)
            )
        else:
            ratios = height / whole[0], width / whole[1]
            ratio = max(ratios) if self.crop_mode == 'border' else min(ratios)
            resized = round(height / ratio), round(width / ratio)
        filter_ = Image.Resampling[self.interpolation.upper()]
        picture = picture.resize((max(resized[1], 1), max(resized[0], 1)), filter_)
        fill = tuple(round(255 * channel) for channel in self.mean) if self.crop_mode == 'border' else None
        return np.asarray(_center_crop(picture, self.size, fill)).reshape(*self.size, len(self.mean))


def of_pretrained_cfg(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Preprocessing` in timm's `pretrained_cfg`, where one number stands for all channels."""
    found = {key: entry[key] for key in ('interpolation', 'crop_pct', 'crop_mode') if entry.get(key) is not None}
    for key in ('mean', 'std'):
        if (value := entry.get(key)) is not None:
            found[key] = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    return found


def of_processor(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same in a `preprocessor_config.json` of Hugging Face."""
    found: dict[str, Any] = {'crop_mode': 'squash', 'crop_pct': 1.0}
    shortest, crop = (_shortest(config.get(key)) for key in ('size', 'crop_size'))
    if config.get('do_center_crop') and shortest and crop:
        found |= {'crop_mode': 'center', 'crop_pct': min(crop / shortest, 1.0)}
    if 'resample' in config:
        found['interpolation'] = INTERPOLATIONS[config['resample']]
    if config.get('do_normalize', True):
        found |= {key: tuple(config[f'image_{key}']) for key in ('mean', 'std') if f'image_{key}' in config}
    else:
        found |= {'mean': (0.0,) * 3, 'std': (1.0,) * 3}
    return found


def _shortest(size: Any) -> int | None:
    """The shorter side; older files have one number for both."""
    return min(size.values()) if isinstance(size, Mapping) and size else size or None


def preprocessing(name: str | Path, **options: Any) -> Preprocessing:
    """How the images of published weights are prepared.

    Args:
      name: what `from_pretrained` takes.
      **options: of `from_pretrained`, of which `image_size` gives the result's size.
    """
    from vit_flax.pretrained import open_checkpoint

    return open_checkpoint(name, **options).preprocessing


def _picture(image: 'Image.Image | np.ndarray', mode: str) -> 'Image.Image':
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.convert(mode)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise ValueError(
            f'an image must be of Pillow or an array [h w], [h w 1] or [h w 3] of uint8, not {list(array.shape)} of '
            f'{array.dtype}'
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array).convert(mode)


def _center_crop(picture: 'Image.Image', size: tuple[int, int], fill: tuple[int, ...] | None) -> 'Image.Image':
    """The middle, with borders, black without `fill`, where the image is smaller."""
    from PIL import Image

    (height, width), (h, w) = (picture.height, picture.width), size
    if width < w or height < h:
        whole = Image.new(picture.mode, (max(width, w), max(height, h)), fill or 0)
        whole.paste(picture, (max(w - width, 0) // 2, max(h - height, 0) // 2))
        picture = whole
    top, left = round((picture.height - h) / 2), round((picture.width - w) / 2)
    return picture.crop((left, top, left + w, top + h))
