"""What a data set must offer."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from train.errors import UserError
from train.places import place

Record = dict[str, Any]
Split = Literal['train', 'val']


@dataclass(frozen=True)
class Source:
    """A data set: its fields are its options. Everything here runs on the host, on numpy arrays."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel of the training images, or of all together, as numbers from 0 to 1."""
        return (0.5,)

    @property
    def std(self) -> tuple[float, ...]:
        """Their standard deviation."""
        return (0.5,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stored images, `(h, w, c)`, or videos, `(t, h, w, c)`; h and w are 0 where they differ."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype:
        """Of the stored images: bytes, or float32."""
        return np.dtype(np.uint8)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises a `UserError` if an option makes no sense or the data are not there."""

    def records(self, split: Split) -> Sequence[Record]:
        """Records with random access: `image` `[h w c]`, of a video `[t h w c]`, `label` int32; decoded on access.

        Bytes are scaled by the step, with `mean` and `std`; float32 images reach the model as they are.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class InMemory(Sequence[Record]):
    """Records from arrays.

    Attributes:
      images: uint8 or float32 `[n h w c]`.
      labels: integers `[n]`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return {'image': self.images[index], 'label': np.int32(self.labels[index])}


@dataclass(frozen=True)
class Some(Sequence[Record]):
    """Some of the records.

    Attributes:
      records: all of them.
      chosen: which, by index.
    """

    records: Sequence[Record]
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index):
        return self.records[int(self.chosen[index])]


def check_labels(labels: np.ndarray, classes: int, where: object) -> np.ndarray:
    """The labels as int32, or a `UserError` if there are none or one is out of range."""
    if not len(labels):
        raise UserError(f'{where} has no images')
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise UserError(
            f'{where}: label {lowest if lowest < 0 else highest} is out of range, '
            f'there are {classes} classes: 0 to {classes - 1}'
        )
    return labels.astype(np.int32)


def check_file(path: str | Path) -> None:
    """Raises an `OSError` for what would be waited for, such as a pipe, or could never end, such as a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError('it is no file, but a folder, a pipe, a socket or a device')


def existing(folder: str, help: str) -> Path:
    """The folder of `--data.path`, or a `UserError` that says how to get what should be in it."""
    path = place(folder, 'data.path')
    if not path.is_dir():
        raise UserError(f'data.path={folder!r} is not a folder: {help}')
    return path
