"""Random images as fast as memory gives them: for measuring, and for trying a model before the data are there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from train.errors import UserError
from train.sources.source import Record, Source, Split

# Bytes of an image, more than any network sees.
LARGEST = 2**27


@dataclass(frozen=True)
class _Noise(Sequence[Record]):
    """One block of noise, looked at from a different place for each record."""

    length: int
    shape: tuple[int, int, int]
    classes: int
    seed: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:  # so that iterating ends
            raise IndexError(index)
        size = math.prod(self.shape)
        start = int(index) * 97 % size
        image = _noise(self.seed, 2 * size)[start : start + size].reshape(self.shape)
        return {'image': image, 'label': np.int32(index % self.classes)}


@cache
def _noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@dataclass(frozen=True)
class Synthetic(Source):
    """Noise with labels; nothing can be learned from it but the labels of single images."""

    image_size: int = 224
    """Height and width of the images."""
    channels: int = 3
    """Channels of the images."""
    num_classes: int = 1000
    """Labels, which follow each other."""
    examples: int = 4096
    """Images to train on; a quarter as many are held out."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.image_size, self.image_size, self.channels

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.num_classes)))

    def check(self) -> None:
        for name in ('image_size', 'channels', 'num_classes', 'examples'):
            if getattr(self, name) < 1:
                raise UserError(f'data.{name}={getattr(self, name)} must be at least 1')
        if math.prod(self.shape) > LARGEST:
            raise UserError(
                f'data.image_size={self.image_size} and data.channels={self.channels} make images of '
                f'{math.prod(self.shape):,} bytes: take at most {LARGEST:,}'
            )

    def records(self, split: Split) -> Sequence[Record]:
        length = self.examples if split == 'train' else -(-self.examples // 4)
        return _Noise(length, self.shape, self.num_classes, seed=split == 'val')
