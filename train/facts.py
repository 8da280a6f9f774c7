"""What a run knows of its data, so that it can be used where the data are not."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.config import Config
from train.errors import UserError, in_a_line
from train.values import check_values

FILE = 'data.json'


@dataclass(frozen=True)
class Facts:
    """Written to `data.json` when a run begins.

    Attributes:
      classes: names of the labels.
      shape: of an image as the model sees it, `(h, w, c)`, or of a video, `(t, h, w, c)`.
      mean, std: see `train.scale.Scale`.
      dtype: of the stored images; what is not uint8 reaches the model as it is.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = 'uint8'

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[-3], self.shape[-2]

    @classmethod
    def of(cls, config: Config) -> 'Facts':
        """Those of the data that a config names."""
        source = config.data
        mean, std = (tuple(map(float, values)) for values in config.augment.normalisation(source))
        return cls(tuple(source.classes), config.augment.shape(source), mean, std, str(source.dtype))

    @classmethod
    def read(cls, folder: Path) -> 'Facts':
        """Those that a run wrote down.

        Raises:
          UserError: its `data.json` is damaged.
        """
        try:
            values = json.loads((folder / FILE).read_text())
            classes, shape, mean, std = (tuple(values[name]) for name in ('classes', 'shape', 'mean', 'std'))
            facts = cls(classes, shape, mean, std, str(values['dtype']))
            check_values(facts)
            if len(shape) not in (3, 4) or min(shape) < 1 or not {len(mean), len(std)} <= {1, shape[-1]} or not classes:
                raise ValueError(f'{len(classes)} classes and images of shape {shape} make no sense')
            np.dtype(facts.dtype)
            return facts
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f'{folder / FILE} cannot be read: {in_a_line(error)}') from error

    def write(self, folder: Path) -> None:
        """All of it or nothing.

        Raises:
          UserError: the folder cannot be written to.
        """
        unfinished = folder / 'data.tmp'
        try:
            unfinished.write_text(json.dumps(dataclasses.asdict(self), indent=2) + '\n')
            os.replace(unfinished, folder / FILE)
        except OSError as error:
            raise UserError(f'{folder / FILE} cannot be written: {error.strerror}') from error

    def check_same(self, now: 'Facts', what: str) -> None:
        """Raises a `UserError` that says in what other data differ."""
        if len(self.classes) != len(now.classes):
            raise UserError(f'{what}: the run has {len(self.classes)} classes, these data have {len(now.classes)}')
        for number, (was, found) in enumerate(zip(self.classes, now.classes, strict=True)):
            if was != found:
                raise UserError(f'{what}: class {number} of the run is {was!r}, of these data {found!r}')
        if self.shape[-1] != now.shape[-1]:
            raise UserError(f'{what}: the run has images of {self.shape[-1]} channels, these data of {now.shape[-1]}')
        if self.shape[:-3] != now.shape[:-3]:
            raise UserError(f'{what}: the run has {_frames(self.shape)}, these data have {_frames(now.shape)}')


def _frames(shape: tuple[int, ...]) -> str:
    return f'videos of {shape[0]} frames' if len(shape) == 4 else 'images'
