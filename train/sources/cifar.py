"""CIFAR's files: batches for Python, for C, and strips of PNG, read without running what a pickle may say.

A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.data.pillow import open_picture
from train.errors import UserError
from train.sources.pictures import UNREADABLE
from train.sources.source import InMemory, check_file

# All that a batch needs to become arrays; a pickle that asks for anything else is refused.
ALLOWED = {
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('_codecs', 'encode'),
}


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module, name):
        module = module.replace('numpy.core', 'numpy._core')  # as numpy called it before version 2
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, which no batch of CIFAR needs')
        return super().find_class(module, name)


def python_batches(files: Sequence[Path], labels: str) -> InMemory:
    """Images and labels of Python batches.

    Args:
      files: in order.
      labels: key of the labels: `labels`, `fine_labels` or `coarse_labels`.

    Raises:
      UserError: a file is damaged or no batch of CIFAR.
    """
    parts = [_python_batch(file, labels) for file in files]
    return InMemory(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _python_batch(path: Path, labels: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open('rb') as file:
            batch = _OnlyArrays(file, encoding='bytes').load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        data, given = batch['data'], batch[labels]
        # Lists within lists can be small in a pickle and without end in memory.
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
            raise ValueError('its data are no array of bytes')
        if not isinstance(given, list | np.ndarray) or not all(isinstance(label, int | np.integer) for label in given):
            raise ValueError('its labels are no integers')
        rows = data.reshape(-1, 3, 32, 32)
        found = np.array(given, np.int32)
    except Exception as error:  # a pickle can fail in any way
        reason = f'it has no {error}' if isinstance(error, KeyError) else str(error)
        raise UserError(f'{path} is no batch of CIFAR: {reason}') from error
    if len(rows) != len(found):
        raise UserError(f'{path} has {len(rows)} images and {len(found)} labels')
    return rows.transpose(0, 2, 3, 1), found


def binary_batches(files: Sequence[Path], label_bytes: int = 1, which: int = 0) -> InMemory:
    """Images and labels of the batches for C.

    Args:
      files: in order; rows of some bytes of labels and 3072 bytes of an image.
      label_bytes: how many labels a row has.
      which: the one to take.

    Raises:
      UserError: a file is cut off.
    """
    parts = []
    for path in files:
        data = np.fromfile(path, np.uint8)
        if not len(data) or len(data) % (label_bytes + 3072):
            raise UserError(f'{path} is damaged: {len(data)} bytes are no whole number of images')
        parts.append(data.reshape(-1, label_bytes + 3072))
    rows = np.concatenate(parts)
    images = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return InMemory(images, rows[:, which].astype(np.int32))


def png_strips(files: Sequence[Path], labels: Path) -> InMemory:
    """Images from files that hold one image in each row of pixels, and their labels from a JSON list."""
    parts = []
    for path in files:
        try:
            with open_picture(path, ('PNG',)) as picture:
                strip = np.asarray(picture.convert('RGB'))
        except UNREADABLE as error:
            raise UserError(f'{path} cannot be read: {error}') from error
        if strip.shape[1] != 1024:
            raise UserError(f'{path} is {strip.shape[1]} pixels wide; a row of 32x32 pixels has 1024')
        parts.append(strip.reshape(-1, 32, 32, 3))
    try:
        check_file(labels)
        found = np.asarray(json.loads(labels.read_text()), np.int32)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f'{labels} is no list of labels: {error}') from error
    images = np.concatenate(parts)
    if found.shape != (len(images),):
        raise UserError(f'{labels} has labels of shape {found.shape} for {len(images)} images')
    return InMemory(images, found)


def find(root: Path, names: Sequence[str], endings: Sequence[str], help: str) -> tuple[list[Path], str]:
    """The files of these names, and the first of the endings that all of them have.

    Raises:
      UserError: there is no such ending.
    """
    for ending in endings:
        files = [root / f'{name}{ending}' for name in names]
        if all(file.is_file() for file in files):
            return files, ending
    wanted = ' or '.join(f'{names[0]}{ending}' for ending in endings)
    rest = f' and the {len(names) - 1} that belong to it' if len(names) > 1 else ''
    raise UserError(f'{root} does not have {wanted}{rest}: {help}')
