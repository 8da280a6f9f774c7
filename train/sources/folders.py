"""Files in folders, one folder for each class: `root/train/CLASS/*` and `root/val/CLASS/*`, or `root/CLASS/*`."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from train.errors import UserError, nearest
from train.sources.source import Split, existing

# Device and number of a file.
Identity = tuple[int, int]

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
            val = _held_out(root / name, classes, kind)
            _check_apart(
                {(place, c): files for place, part in ((top, found), (root / name, val)) for c, files in part.items()}
            )
            return classes, {'train': _listing(top, found, classes), 'val': _listing(root / name, val, classes)}
    _check_apart({(top, name): files for name, files in found.items()})
    held = {name: _held(name, [*files], held_out) for name, files in found.items()}
    kept = {name: [file for file in files if file not in held[name]] for name, files in found.items()}
    if not any(held.values()):
        raise UserError(
            f'{top} has one {kind.one} of each class, so that none can be held out: add some, or {kind.help}'
        )
    sorted_held = {name: sorted(files) for name, files in held.items()}
    return classes, {'train': _listing(top, kept, classes), 'val': _listing(top, sorted_held, classes)}


def _held_out(folder: Path, classes: tuple[str, ...], kind: Kind) -> dict[str, dict[str, Identity]]:
    """The files of each class; there may be none of a class, which can still be learned."""
    found = {name: _files(folder / name, kind) for name in _folders(folder)}
    for name, files in found.items():
        if files and name not in classes:
            raise UserError(f'{folder / name}: there is no such class to train on, {nearest(name, classes)}')
    if not any(found.values()):
        raise UserError(f'{folder} has no {kind.many} in folders of classes: {kind.help}')
    return found


def _folders(top: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(top) if _is_folder(entry) and not entry.name.startswith('.'))
    except OSError as error:
        raise UserError(f'{top} cannot be read: {error.strerror}') from error


def _is_folder(entry: os.DirEntry) -> bool:
    """Or a link to one; a link that leads nowhere, or to itself, is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _files(folder: Path, kind: Kind) -> dict[str, Identity]:
    """Paths within a folder and those inside it, sorted, and which file each is.

    Links are followed, but not to a folder that lies around them, which would never end. What is found twice counts
    once, under the first of its names.
    """
    found: dict[str, Identity] = {}
    unread: list[tuple[Path, tuple[Identity, ...]]] = [(folder, (_identity(folder),))]
    while unread:
        parent, around = unread.pop()
        try:
            entries = list(os.scandir(parent))
        except OSError as error:
            raise UserError(f'{parent} cannot be read: {error.strerror}') from error
        for entry in entries:
            inside = os.path.relpath(entry.path, folder)
            if _is_folder(entry):
                identity = _identity(entry.path)
                if identity not in around:
                    unread.append((Path(entry.path), (*around, identity)))
            elif entry.name.lower().endswith(kind.endings) and not entry.name.startswith('.'):
                # The number alone is known without asking for each file; of a link it is that of the link.
                linked = entry.is_symlink() and os.path.exists(entry.path)
                found[inside] = _identity(entry.path) if linked else (around[-1][0], entry.inode())
    first: dict[Identity, str] = {}
    return {
        file: found[file]
        for file in sorted(found)
        if first.setdefault(found[file], file) == file
        or not os.path.samefile(folder / first[found[file]], folder / file)
    }


# Layered file systems have numbers that are not all different: those of the same number are compared once more.
def _identity(path: str | Path) -> Identity:
    """Device and number of a file, by which it is known under all its names."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _check_apart(parts: Mapping[tuple[Path, str], Mapping[str, Identity]]) -> None:
    """Raises a `UserError` if a file stands in two classes, or in both splits: it would have two labels, or be held out
    and trained on."""
    seen: dict[Identity, Path] = {}
    for (top, name), files in parts.items():
        for file, identity in files.items():
            here = top / name / file
            before = seen.setdefault(identity, here)
            if before is not here and os.path.samefile(before, here):
                raise UserError(
                    f'{before} and {here} are the same file, by a link: an image has one class, and is trained on or '
                    'held out; remove one of them'
                )


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


def _listing(top: Path, found: Mapping[str, Iterable[str]], classes: tuple[str, ...]) -> Listing:
    return tuple((str(top / name / file), label) for label, name in enumerate(classes) for file in found.get(name, ()))
