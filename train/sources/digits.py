"""The handwritten digits that come with scikit-learn: 1,797 real images of 8x8 pixels, no download.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from train.errors import UserError
from train.sources.source import InMemory, Source, Split


@dataclass(frozen=True)
class Digits(Source):
    """Scikit-learn's digits: four fifths to train on, one fifth held out, the classes equally in both."""

    mean = (0.0,)
    std = (1.0,)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 8, 8, 1

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple('0123456789')

    def records(self, split: Split) -> InMemory:
        return InMemory(*_split()[split])


@cache
def _split() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same fifth is held out in every run, whatever its seed."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UserError("the digits come with scikit-learn: pip install 'vit-linen[train]'") from error

    digits = load_digits()
    # 17 shades of grey, from 0 to 16.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train_x, val_x, train_y, val_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return {'train': (train_x, train_y), 'val': (val_x, val_y)}
