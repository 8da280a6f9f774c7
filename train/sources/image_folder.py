"""Pictures in folders, one folder for each class."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from train.errors import UserError, nearest
from train.sources.pictures import ENDINGS, MEAN, STD, Corrupt, Pictures, check_options
from train.sources.source import Source, Split, existing

HELP = (
    'give --data.path a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or one with CLASS/*.jpg, of which a part is '
    'then held out (.jpeg, .png, .webp and .bmp are read too)'
)

# Path and label of each picture.
Listing = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ImageFolder(Source):
    """Your own pictures, of any size: one folder for each class, decoded when they are needed."""

    path: str = 'data/images'
    """Folder with train/CLASS/*.jpg and val/CLASS/*.jpg (or test), or with CLASS/*.jpg. Classes are sorted by name."""
    held_out: float = 0.1
    """Part of each class that is held out where there is no val and no test; which pictures depends on their names."""
    channels: int = 3
    """What pictures are turned into: 3 for colours, 1 for grey."""
    corrupt: Corrupt = 'refuse'
    """What an unreadable picture does: end the run, or be counted and replaced by the next readable one."""

    @property
    def mean(self) -> tuple[float, ...]:
        return MEAN[self.channels]

    @property
    def std(self) -> tuple[float, ...]:
        return STD[self.channels]

    @property
    def shape(self) -> tuple[int, int, int]:
        return 0, 0, self.channels

    @property
    def classes(self) -> tuple[str, ...]:
        return self._index[0]

    def check(self) -> None:
        check_options(self.held_out, self.channels, self.corrupt)

    def records(self, split: Split) -> Pictures:
        return Pictures(self._index[1][split], len(self.classes), self.path, self.channels, self.corrupt)

    @cached_property
    def _index(self) -> tuple[tuple[str, ...], dict[Split, Listing]]:
        """The classes, and the pictures of both splits; the folder is looked through once."""
        root = existing(self.path, HELP)
        # A class may be called train, too.
        split = (root / 'train').is_dir() and bool(_folders(root / 'train'))
        top = root / 'train' if split else root
        found = {name: _pictures(top / name) for name in _folders(top)}
        if not any(found.values()):
            raise UserError(f'{top} has no pictures in folders of classes: {HELP}')
        for name, files in found.items():
            if not files:
                raise UserError(f'{top / name} has no pictures ({", ".join(ENDINGS)}): fill or remove the folder')
        classes = tuple(found)
        for name in ('val', 'test') if split else ():
            if (root / name).is_dir():
                return classes, {'train': _listing(top, found, classes), 'val': _held_out(root / name, classes)}
        held = {name: _held(name, files, self.held_out) for name, files in found.items()}
        kept = {name: [file for file in files if file not in held[name]] for name, files in found.items()}
        if not any(held.values()):
            raise UserError(f'{top} has one picture of each class, so that none can be held out: add some, or {HELP}')
        held_out = {name: sorted(files) for name, files in held.items()}
        return classes, {'train': _listing(top, kept, classes), 'val': _listing(top, held_out, classes)}


def _held_out(folder: Path, classes: tuple[str, ...]) -> Listing:
    found = {name: _pictures(folder / name) for name in _folders(folder)}
    for name, files in found.items():
        if files and name not in classes:
            raise UserError(f'{folder / name}: there is no such class to train on, {nearest(name, classes)}')
    if not any(found.values()):
        raise UserError(f'{folder} has no pictures in folders of classes: {HELP}')
    # A class of which nothing is held out can still be learned.
    return _listing(folder, found, classes)


def _folders(top: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith('.'))
    except OSError as error:
        raise UserError(f'{top} cannot be read: {error.strerror}') from error


def _pictures(folder: Path) -> list[str]:
    """Paths within a folder and those inside it, sorted."""
    found = []
    for parent, _, files in os.walk(folder, followlinks=True):
        inside = os.path.relpath(parent, folder)
        found += [
            os.path.normpath(os.path.join(inside, file))
            for file in files
            if file.lower().endswith(ENDINGS) and not file.startswith('.')
        ]
    return sorted(found)


def _held(name: str, files: list[str], part: float) -> set[str]:
    """The pictures of a class that are held out: at least one, and not all.

    Each picture's own name decides, so that others may come and go.
    """
    places = {file: _place(f'{name}/{Path(file).as_posix()}') for file in files}
    highest, lowest = max(places.values()), min(places.values())
    return {file for file, place in places.items() if place <= max(part, lowest) and place < highest}


def _place(name: str) -> float:
    """A number from 0 to 1 that looks random."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=6).digest()) / 2**48


def _listing(top: Path, found: dict[str, list[str]], classes: tuple[str, ...]) -> Listing:
    return tuple((str(top / name / file), label) for label, name in enumerate(classes) for file in found.get(name, ()))
