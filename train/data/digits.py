"""The handwritten digits that come with scikit-learn: 1,797 real images of 8x8 pixels, no download.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from train.data.source import Record, Source, Split
from train.errors import UserError


@dataclass(frozen=True)
class Digits(Source):
    """Scikit-learn's digits: four fifths to train on, one fifth held out, the classes equally in both."""

    image_size: int = 16
    """Height and width that the 8x8 pixels are enlarged to."""
    rotate: float = 12.0
    """Largest rotation in training, in degrees."""
    shift: float = 0.1
    """Largest shift in training, as part of the width."""
    zoom: float = 0.12
    """Largest change of size in training, as part of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image_size, self.image_size, 1

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple('0123456789')

    def check(self) -> None:
        if self.image_size < 8:
            raise UserError(f'data.image_size={self.image_size} must be at least 8, the size of the digits')
        if not 0 <= self.rotate <= 180:
            raise UserError(f'data.rotate={self.rotate} must lie between 0 and 180 degrees')
        for name in ('shift', 'zoom'):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f'data.{name}={getattr(self, name)} must be at least 0 and below 1')

    def records(self, split: Split) -> Sequence[Record]:
        images, labels = _split()[split]
        return [{'image': image, 'label': label} for image, label in zip(images, labels, strict=True)]

    def prepare(self, record: Record) -> Record:
        return {'image': self._view(record['image']), 'label': record['label']}

    def augment(self, record: Record, rng: np.random.Generator) -> Record:
        image = self._view(
            record['image'],
            angle=math.radians(rng.uniform(-self.rotate, self.rotate)),
            zoom=1 + rng.uniform(-self.zoom, self.zoom),
            shift=rng.uniform(-self.shift, self.shift, 2),
        )
        return {'image': image, 'label': record['label']}

    def _view(
        self, image: np.ndarray, angle: float = 0.0, zoom: float = 1.0, shift: Sequence[float] | np.ndarray = (0.0, 0.0)
    ) -> np.ndarray:
        """Turned, zoomed, shifted and enlarged in one resampling, `[8 8] -> [h w 1]`."""
        old, new = len(image), self.image_size
        step = old / new / zoom
        cos, sin = step * math.cos(angle), step * math.sin(angle)
        # Where the centre of the new image lies in the old one; Pillow wants the map from new to old.
        x, y = old * (0.5 + np.asarray(shift))
        centre = new / 2
        to_old = (cos, sin, x - (cos + sin) * centre, -sin, cos, y - (cos - sin) * centre)
        turned = Image.fromarray(image).transform((new, new), Image.Transform.AFFINE, to_old, Image.Resampling.BICUBIC)
        return np.asarray(turned).clip(0, 1)[..., None]


@cache
def _split() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same fifth is held out in every run, whatever its seed."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UserError("the digits come with scikit-learn: pip install 'vit-linen[train]'") from error

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    train_x, val_x, train_y, val_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return {'train': (train_x, train_y), 'val': (val_x, val_y)}
