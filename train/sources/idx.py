"""IDX files, as MNIST and its successors come in, gzipped or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from train.errors import UserError
from train.sources.source import InMemory, Split, check_labels, existing

# More than any such data set has; a file that says more would fill the memory.
LARGEST = 2**30

PREFIX = {'train': 'train', 'val': 't10k'}


def load(folder: str, split: Split, help: str, shape: tuple[int, int, int], classes: int) -> InMemory:
    """The images and labels of one split.

    Args:
      folder: with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, and the same with `t10k`, or these with `.gz`.
      split: train or val.
      help: how to get the files, for the message if they are missing.
      shape: of an image, `(h, w, 1)`.
      classes: labels must be below.

    Raises:
      UserError: a file is missing, cut off, or something else.
    """
    root = existing(folder, help)
    images = read(_find(root, f'{PREFIX[split]}-images-idx3-ubyte', help))
    labels = read(_find(root, f'{PREFIX[split]}-labels-idx1-ubyte', help))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise UserError(f'{root}: images of shape {images.shape} do not belong to labels of shape {labels.shape}')
    images = images[..., None]
    if images.shape[1:] != shape:
        raise UserError(f'{root}: images of {images.shape[1:3]} pixels, {shape[:2]} were expected')
    return InMemory(images, check_labels(labels, classes, root))


def _find(root: Path, name: str, help: str) -> Path:
    # Some copies have a dot where the original has a dash.
    for file in (name, f'{name}.gz', name.replace('-idx', '.idx'), name.replace('-idx', '.idx') + '.gz'):
        if (root / file).is_file():
            return root / file
    raise UserError(f'{root} has no {name} or {name}.gz: {help}')


def read(path: Path) -> np.ndarray:
    """The array of unsigned bytes in one file.

    Raises:
      UserError: it is cut off, or no IDX file of bytes.
    """
    try:
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
            start = file.read(4)
            if len(start) < 4 or start[:3] != b'\0\0\x08':
                raise UserError(f'{path} is not an IDX file of bytes: it begins with {start.hex() or "nothing"}')
            header = file.read(4 * start[3])
            if len(header) != 4 * start[3]:
                raise UserError(f'{path} is damaged: it ends within its header')
            shape = tuple(int(n) for n in np.frombuffer(header, '>u4'))
            size = math.prod(shape)
            if start[3] > 4 or size > LARGEST:
                raise UserError(f'{path} is no data set of images: its header says {start[3]} axes, {size} bytes')
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if len(data) != size:
        raise UserError(f'{path} is damaged: its header says {shape}, which is {size} bytes, it has {len(data)}')
    return np.frombuffer(data, np.uint8).reshape(shape)
