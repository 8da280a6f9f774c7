"""Files in folders, one folder for each class: `root/train/CLASS/*` and `root/val/CLASS/*`, or `root/CLASS/*`."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from train.errors import UserError, nearest
from train.sources.source import Split, existing

# Path and label of each file.
Listing = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Kind:
    """What is looked for.

    Attributes:
      one, many: what such a file is called, `picture` and `pictures`.
      endings: of the names of files, small letters.
      help: which folders are expected, to end a message with.
    """

    one: str
    many: str
    endings: tuple[str, ...]
    help: str


def find(path: str, held_out: float, kind: Kind) -> tuple[tuple[str, ...], dict[Split, Listing]]:
    """The classes, and the files of both splits.

    Args:
      path: of the folder, with train and val (or test), or with classes.
      held_out: part of each class that is held out where there is no val and no test.
      kind: of files.

    Raises:
      UserError: what is there is not laid out like that, or leaves nothing to learn or nothing to hold out.
    """
    root = existing(path, kind.help)
    # A class may be called train, too.
    split = (root / 'train').is_dir() and bool(_folders(root / 'train'))
    top = root / 'train' if split else root
    found = {name: _files(top / name, kind) for name in _folders(top)}
    if not any(found.values()):
        raise UserError(f'{top} has no {kind.many} in folders of classes: {kind.help}')
    for name, files in found.items():
        if not files:
            raise UserError(f'{top / name} has no {kind.many} ({", ".join(kind.endings)}): fill or remove the folder')
    classes = tuple(found)
    for name in ('val', 'test') if split else ():
        if (root / name).is_dir():
            return classes, {'train': _listing(top, found, classes), 'val': _held_out(root / name, classes, kind)}
    held = {name: _held(name, files, held_out) for name, files in found.items()}
    kept = {name: [file for file in files if file not in held[name]] for name, files in found.items()}
    if not any(held.values()):
        raise UserError(
            f'{top} has one {kind.one} of each class, so that none can be held out: add some, or {kind.help}'
        )
    sorted_held = {name: sorted(files) for name, files in held.items()}
    return classes, {'train': _listing(top, kept, classes), 'val': _listing(top, sorted_held, classes)}


def _held_out(folder: Path, classes: tuple[str, ...], kind: Kind) -> Listing:
    found = {name: _files(folder / name, kind) for name in _folders(folder)}
    for name, files in found.items():
        if files and name not in classes:
            raise UserError(f'{folder / name}: there is no such class to train on, {nearest(name, classes)}')
    if not any(found.values()):
        raise UserError(f'{folder} has no {kind.many} in folders of classes: {kind.help}')
    # A class of which nothing is held out can still be learned.
    return _listing(folder, found, classes)


def _folders(top: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith('.'))
    except OSError as error:
        raise UserError(f'{top} cannot be read: {error.strerror}') from error


def _files(folder: Path, kind: Kind) -> list[str]:
    """Paths within a folder and those inside it, sorted."""
    found = []
    for parent, _, files in os.walk(folder, followlinks=True):
        inside = os.path.relpath(parent, folder)
        found += [
            os.path.normpath(os.path.join(inside, file))
            for file in files
            if file.lower().endswith(kind.endings) and not file.startswith('.')
        ]
    return sorted(found)


def _held(name: str, files: list[str], part: float) -> set[str]:
    """The files of a class that are held out: at least one, and not all.

    Each file's own name decides, so that others may come and go.
    """
    places = {file: _place(f'{name}/{Path(file).as_posix()}') for file in files}
    highest, lowest = max(places.values()), min(places.values())
    return {file for file, place in places.items() if place <= max(part, lowest) and place < highest}


def _place(name: str) -> float:
    """A number from 0 to 1 that looks random."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=6).digest()) / 2**48


def _listing(top: Path, found: dict[str, list[str]], classes: tuple[str, ...]) -> Listing:
    return tuple((str(top / name / file), label) for label, name in enumerate(classes) for file in found.get(name, ()))
