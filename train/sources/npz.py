"""Arrays in a file, as `np.savez` writes them."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from train.errors import UserError
from train.places import place
from train.sources.arrays import Arrays, from_arrays
from train.sources.source import InMemory, Source, Split
from vit_flax.weights.formats import zips
from vit_flax.weights.formats.common import FileError

HELP = (
    'write it with np.savez(FILE, train_images=..., train_labels=..., val_images=..., val_labels=...), '
    'images [n h w c] of uint8 or float32, labels [n] from 0; without val_ a part is held out; '
    'classes=[...] names the labels'
)

NAMES = ('train_images', 'train_labels', 'val_images', 'val_labels', 'classes')


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
        path = place(self.path, 'data.path')
        if not path.is_file():
            raise UserError(f'data.path={self.path!r} is not a file: {HELP}')
        try:
            arrays = _read(path)
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
                _names(arrays['classes']) if 'classes' in arrays else (),
                self.held_out,
            )
        except UserError as error:
            raise UserError(f'{path}: {error}') from error


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays that are asked for; others are not looked at."""
    with path.open('rb') as file:
        if file.read(6) == b'\x93NUMPY':
            raise UserError(f'{path} is one array without a name: {HELP}')
    with zips.opened(path) as (archive, members):
        found = {name.removesuffix('.npy'): member for name, member in members.items()}
        wanted = {name: member for name, member in found.items() if name in NAMES}
        for name, member in wanted.items():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                # From version 2 on headers may be longer, and from 3 on hold any letters.
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                size, claimed = member.file_size - file.tell(), math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                raise ValueError(f'Object arrays cannot be loaded, which {name} is')
            if min(shape, default=0) < 0 or size != claimed:
                raise ValueError(f'{name} claims the shape {shape} of {dtype}, and has {size:,} bytes')
        if not {'train_images', 'train_labels'} <= wanted.keys():
            return dict.fromkeys(found, np.empty(0))  # whose names are told
        arrays = {}
        for name, member in wanted.items():
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


def _names(classes: np.ndarray) -> list[str]:
    if classes.ndim != 1 or classes.dtype.kind not in 'USiu':
        raise UserError(f'classes, {classes.dtype} of shape {classes.shape}, must be a list of names')
    return [name.decode(errors='replace') if isinstance(name, bytes) else str(name) for name in classes.tolist()]
