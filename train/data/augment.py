"""From a stored image to the one that the model sees: in training changed at random, in evaluation not.

Everything here runs on the host, image by image, on bytes, and alike for all frames of a video; what acts on whole
batches (mixup, cutmix) belongs to the objective, and scaling to numbers around zero to the step.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from train.data import pillow
from train.data.randaugment import randaugment
from train.errors import UserError
from train.sources.source import Record, Source

# Of a photograph, evaluation sees the middle: 224 of 256 pixels, as is usual since arXiv:1409.4842.
MIDDLE = 0.875

# Of a crop: the least part of the area, and the narrowest shape.
SMALLEST, SLENDEREST = 0.0001, 100

# left, top, right, bottom
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augment:
    """What happens to an image; by default nothing."""

    image_size: int = 0
    """Height and width that the model sees; 0 takes the images as they are stored."""
    resized_crop: tuple[float, float] = (1.0, 1.0)
    """Random resized crop (arXiv:1409.4842): smallest and largest part of the area; 1 1 crops nothing."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest shape of such a crop, as width over height."""
    pad_crop: int = 0
    """Pixels of reflected border from which a crop of the old size is taken, for small images."""
    rotate: float = 0.0
    """Largest rotation, in degrees; what it uncovers is black, as with shift and zoom."""
    shift: float = 0.0
    """Largest shift, as part of the width."""
    zoom: float = 0.0
    """Largest change of size, as part of it."""
    flip: float = 0.0
    """Probability of a mirror image."""
    randaugment: int = 0
    """How many operations RandAugment (arXiv:1909.13719) applies to each image; 0 leaves it out."""
    magnitude: float = 9.0
    """Their strength, from 0 to 10."""
    magnitude_spread: float = 0.5
    """Standard deviation of the strength from image to image."""
    erase: float = 0.0
    """Probability of random erasing (arXiv:1708.04896): a box of 2 to 33 % of the area filled with noise."""
    mean: tuple[float, ...] = ()
    """Mean of each channel, between 0 and 1, by which images are normalised; by default the data set's. Pretrained
    weights expect that of their own training."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel, likewise."""

    def normalisation(self, source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, or one for all."""
        return self.mean or source.mean, self.std or source.std

    def check(self) -> None:
        """Raises a `UserError` if an option makes no sense."""
        low, high = self.resized_crop
        if not SMALLEST <= low <= high <= 1:
            raise UserError(f'augment.resized_crop={self.resized_crop} must be two rising numbers from {SMALLEST} to 1')
        if not 1 / SLENDEREST <= self.aspect[0] <= self.aspect[1] <= SLENDEREST:
            raise UserError(
                f'augment.aspect={self.aspect} must be two rising numbers from {1 / SLENDEREST} to {SLENDEREST}'
            )
        for name in ('image_size', 'pad_crop', 'randaugment'):
            if not getattr(self, name) >= 0:
                raise UserError(f'augment.{name}={getattr(self, name)} must be at least 0')
        for name in ('flip', 'erase'):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f'augment.{name}={getattr(self, name)} must lie between 0 and 1')
        for name in ('shift', 'zoom'):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f'augment.{name}={getattr(self, name)} must be at least 0 and below 1')
        if not 0 <= self.rotate <= 180:
            raise UserError(f'augment.rotate={self.rotate} must lie between 0 and 180 degrees')
        for name in ('magnitude', 'magnitude_spread'):
            if not 0 <= getattr(self, name) <= 10:
                raise UserError(f'augment.{name}={getattr(self, name)} must lie between 0 and 10')
        if self.resized_crop != (1.0, 1.0) and (self.rotate or self.shift or self.zoom):
            raise UserError('augment: a random resized crop and rotate, shift, zoom exclude each other')

    def shape(self, source: Source) -> tuple[int, ...]:
        """Of an image as the model sees it, `(h, w, c)`, or of a video, `(t, h, w, c)`.

        Raises:
          UserError: the stored images differ in size and no `image_size` was chosen, or RandAugment cannot take them.
        """
        *time, height, width, channels = source.shape
        if self.randaugment and (channels not in (1, 3) or source.dtype != np.uint8):
            raise UserError(
                f'augment.randaugment={self.randaugment} works on bytes of 1 or 3 channels, '
                f'the images of the data are {source.dtype} of {channels}'
            )
        if self.image_size:
            return *time, self.image_size, self.image_size, channels
        if not height:
            raise UserError('the stored images differ in size: choose --augment.image-size, such as 224')
        return *time, height, width, channels

    def least(self, training: bool) -> int:
        """Pixels that the shorter side of a stored image needs so that nothing is enlarged; 0 for as many as there are.

        It lets large photographs be decoded at a part of their size.
        """
        if not training:
            return math.ceil(self.image_size / MIDDLE)
        # The narrowest crop, of the smallest area and the most slender shape.
        slender = min(self.aspect[0], 1 / self.aspect[1])
        smallest = math.sqrt(self.resized_crop[0] * slender) if self.resized_crop != (1.0, 1.0) else MIDDLE
        return math.ceil(self.image_size / smallest)

    def train(self, record: Record, rng: np.random.Generator) -> Record:
        """A stored record as the model is trained on it."""
        image = record['image']
        if image.ndim == 3:
            return {**record, 'image': self._trained(image, rng)}
        # The generator draws the same for every frame.
        state, frames = rng.bit_generator.state, []
        for frame in image:
            rng.bit_generator.state = state
            frames.append(self._trained(frame, rng))
        return {**record, 'image': np.stack(frames)}

    def _trained(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = self._moved(image, rng)
        if self.flip and rng.random() < self.flip:
            image = image[:, ::-1]
        if self.randaugment:
            image = randaugment(image, rng, self.randaugment, self.magnitude, self.magnitude_spread)
        if self.erase and rng.random() < self.erase:
            image = erase(image, rng)
        return image

    def evaluate(self, record: Record) -> Record:
        """A stored record as the model is evaluated on it: small images whole, of photographs the middle."""
        image = record['image']
        seen = self._evaluated(image) if image.ndim == 3 else np.stack([self._evaluated(frame) for frame in image])
        return {**record, 'image': seen}

    def _evaluated(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        size = self.image_size
        if not size or (height, width) == (size, size):
            return image
        # What is enlarged, or square already, has nothing to spare.
        part = min(height, width) * (MIDDLE if min(height, width) > size and height != width else 1)
        left, top = (width - part) / 2, (height - part) / 2
        return pillow.crop(image, (left, top, left + part, top + part), (size, size))

    def _moved(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        size = (self.image_size, self.image_size) if self.image_size else (height, width)
        if self.resized_crop != (1.0, 1.0):
            box = random_box(height, width, self.resized_crop, self.aspect, rng)
            image = pillow.crop(image, box or middle_box(height, width, self.aspect), size)
        elif self.rotate or self.shift or self.zoom:
            # Only what grows may be resized by the same resampling: it takes no mean over pixels.
            grows = height == width < self.image_size
            image = self._turned(image if grows else self._evaluated(image), size, rng)
        else:
            image = self._evaluated(image)
        if self.pad_crop:
            top, left = rng.integers(0, 2 * self.pad_crop + 1, 2) - self.pad_crop
            image = image.take(reflected(int(top), size[0]), 0).take(reflected(int(left), size[1]), 1)
        return image

    def _turned(self, image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Turned, zoomed, shifted and resized in one resampling."""
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        zoom = 1 + rng.uniform(-self.zoom, self.zoom)
        shift = rng.uniform(-self.shift, self.shift, 2)
        return affine(image, size, angle, zoom, shift)


def affine(image: np.ndarray, size: tuple[int, int], angle: float, zoom: float, shift: np.ndarray) -> np.ndarray:
    """Turned by `angle` radians, zoomed, shifted by parts of the width and height `(x, y)`, resized to `(h, w)`."""
    height, width = image.shape[:2]
    step_x, step_y = width / size[1] / zoom, height / size[0] / zoom
    cos, sin = math.cos(angle), math.sin(angle)
    # Where the centre of the new image lies in the old one; Pillow wants the map from new to old.
    x, y = width * (0.5 + shift[0]), height * (0.5 + shift[1])
    to_old = np.array([[cos * step_x, sin * step_x], [-sin * step_y, cos * step_y]])
    start = np.array([x, y]) - to_old @ np.array([size[1] / 2, size[0] / 2])
    coefficients = (*to_old[0], start[0], *to_old[1], start[1])
    return pillow.each(
        image,
        lambda part: part.transform((size[1], size[0]), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC),
    )


@cache
def reflected(start: int, length: int) -> np.ndarray:
    """Where the pixels from `start` on lie along an axis of `length` pixels that goes on as its own mirror image."""
    places = np.abs(np.arange(start, start + length)) % max(2 * length - 2, 1)
    return np.minimum(places, 2 * length - 2 - places)


def random_box(
    height: int, width: int, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Box | None:
    """A box of a random part of the area and a random shape, or None if ten tries gave none that fits."""
    for _ in range(10):
        part = height * width * rng.uniform(*area)
        shape = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(part * shape)), round(math.sqrt(part / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    return None


def middle_box(height: int, width: int, aspect: tuple[float, float]) -> Box:
    """The largest box in the middle of a shape between these two."""
    shape = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * shape)), min(height, round(width / shape))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def erase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random erasing: a box of 2 to 33 % of the area, of any shape from 3:10 to 10:3, becomes noise.

    Bytes become any byte; other numbers lie between the smallest and the largest of the image.
    """
    box = random_box(image.shape[0], image.shape[1], (0.02, 0.33), (0.3, 1 / 0.3), rng)
    if box is None:
        return image
    left, top, right, bottom = box
    shape = bottom - top, right - left, image.shape[2]
    image = image.copy()
    if image.dtype == np.uint8:
        image[top:bottom, left:right] = rng.integers(0, 256, shape, np.uint8)
    else:
        image[top:bottom, left:right] = rng.uniform(image.min(), image.max(), shape)
    return image
