"""Arrays in a file, as `np.savez` writes them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from train.errors import UserError
from train.sources.arrays import Arrays, from_arrays
from train.sources.source import InMemory, Source, Split
from vit_flax.weights.formats import zips
from vit_flax.weights.formats.common import FileError, told

HELP = (
    'write it with np.savez(FILE, train_images=..., train_labels=..., val_images=..., val_labels=...), '
    'images [n h w c] of uint8 or float32, labels [n] from 0; without val_ a part is held out; '
    'classes=[...] names the labels'
)


@dataclass(frozen=True)
class Npz(Source):
    """Your own images and labels as arrays in one .npz file."""

    path: str = 'data/images.npz'
    """File with train_images [n h w c] of uint8 or float32 (which is not scaled), train_labels [n], and, if you like,
    val_images, val_labels and classes, the labels' names."""
    held_out: float = 0.1
    """Part that is held out where the file has no val_images; the same in every run."""

    @property
    def mean(self) -> tuple[float, ...]:
        return self._arrays.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self._arrays.std

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._arrays.shape

    @property
    def dtype(self) -> np.dtype:
        return self._arrays.dtype

    @property
    def classes(self) -> tuple[str, ...]:
        return self._arrays.classes

    def check(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f'data.held_out={self.held_out} must be above 0 and below 1')

    def records(self, split: Split) -> InMemory:
        return self._arrays.records(split)

    @cached_property
    def _arrays(self) -> Arrays:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise UserError(f'data.path={self.path!r} is not a file: {HELP}')
        try:
            with told(path):
                file = np.load(path, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UserError(f'{path} is one array without a name: {HELP}')
            with zips.opened(path), file:
                arrays = {name: file[name] for name in file.files}
        except FileError as error:
            raise UserError(str(error)) from error
        for name in ('train_images', 'train_labels'):
            if name not in arrays:
                raise UserError(f'{path} has no {name}, it has {", ".join(sorted(arrays)) or "nothing"}: {HELP}')
        try:
            return from_arrays(
                arrays['train_images'],
                arrays['train_labels'],
                arrays.get('val_images'),
                arrays.get('val_labels'),
                arrays['classes'].tolist() if 'classes' in arrays else (),
                self.held_out,
            )
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
