"""Your own arrays, from Python; `docs/data.md` has an example. Arrays in a file are the data set `npz`."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from train.errors import UserError
from train.sources.source import InMemory, Source, Split, check_labels


@dataclass(frozen=True)
class Arrays(Source):
    """Images and labels in memory, see `from_arrays`.

    Attributes:
      digest: of all the arrays, by which a run that continues knows its data again; what is written to `config.json`.
    """

    digest: str
    names: dataclasses.InitVar[tuple[str, ...]]
    train: dataclasses.InitVar[InMemory]
    val: dataclasses.InitVar[InMemory]

    def __post_init__(self, names, train, val):
        vars(self)['_names'] = names
        vars(self)['_parts'] = {'train': train, 'val': val}

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.records('train').images.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.records('train').images.dtype

    @property
    def mean(self) -> tuple[float, ...]:
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        return self._moments[1]

    @property
    def classes(self) -> tuple[str, ...]:
        return vars(self)['_names']

    def records(self, split: Split) -> InMemory:
        return vars(self)['_parts'][split]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the channels of the training images, exactly."""
        images = self.records('train').images
        if images.dtype != np.uint8:  # nobody scales them
            return (0.0,), (1.0,)
        counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
        shades = np.arange(256) / 255
        means = [np.average(shades, weights=count) for count in counts]
        spreads = [np.average((shades - mean) ** 2, weights=count) for mean, count in zip(means, counts, strict=True)]
        # A channel of one shade says nothing, in whatever scale.
        return tuple(map(float, means)), tuple(float(np.sqrt(spread)) or 1.0 for spread in spreads)


def from_arrays(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    val_images: np.ndarray | None = None,
    val_labels: np.ndarray | None = None,
    classes: Sequence[str] = (),
    held_out: float = 0.1,
) -> Arrays:
    """A data set for `Config(data=...)`.

    Args:
      train_images: `[n h w c]`, or grey `[n h w]`. uint8 from 0 to 255 are scaled by the trainer, to mean 0 and
        standard deviation 1; floating numbers reach the model as they are, in float32.
      train_labels: integers `[n]`, from 0.
      val_images, val_labels: held out. Without them a part of the others is, the same in every run.
      classes: names of the labels; without them their numbers.
      held_out: how large a part.

    Raises:
      UserError: the arrays do not belong together.
    """
    train = _records('train', train_images, train_labels)
    if val_images is not None and val_labels is not None:
        val = _records('val', val_images, val_labels)
    elif val_images is None and val_labels is None:
        train, val = _divided(train, held_out)
    else:
        raise UserError('val_images and val_labels belong together: give both or none')
    of_train, of_val = (f'{part.images.dtype}{list(part.images.shape[1:])}' for part in (train, val))
    if of_train != of_val:
        raise UserError(f'train_images are {of_train}, val_images {of_val}: they must be alike')
    names = tuple(map(str, classes))
    if not names:
        count, highest = len(train) + len(val), int(max(train.labels.max(), val.labels.max()))
        if highest >= count:
            raise UserError(
                f'label {highest} is above the number of images, {count}: number the classes from 0, such as by '
                'np.unique(labels, return_inverse=True)[1], or name them all in classes'
            )
        names = tuple(map(str, range(highest + 1)))
    for split, part in (('train', train), ('val', val)):
        check_labels(part.labels, len(names), f'{split}_labels')
    digest = hashlib.sha256(repr(names).encode())
    for part in (train, val):
        for array in (part.images, part.labels):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return Arrays(digest.hexdigest()[:16], names, train, val)


def _records(split: Split, images: np.ndarray, labels: np.ndarray) -> InMemory:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise UserError(f'{split}_images of shape {images.shape} must be images [n h w c], or grey [n h w]')
    if np.issubdtype(images.dtype, np.floating):
        with np.errstate(over='ignore'):  # what becomes infinite is refused
            images = images.astype(np.float32, copy=False)
        if not np.isfinite(images).all():
            raise UserError(f'{split}_images have numbers that are not finite')
    elif images.dtype != np.uint8:
        raise UserError(f'{split}_images of {images.dtype} must be uint8 from 0 to 255, or floating numbers')
    if labels.shape != images.shape[:1] or labels.dtype.kind not in 'iu':
        raise UserError(
            f'{split}_labels, {labels.dtype} of shape {labels.shape}, must be {len(images)} integers, '
            'as there are images'
        )
    return InMemory(images, labels)


def _divided(records: InMemory, part: float) -> tuple[InMemory, InMemory]:
    """What is left to train on, and a random part to hold out."""
    count = len(records)
    if not 0 < part < 1 or count < 2:
        raise UserError(f'held_out={part} of {count} images leaves nothing to train on or nothing to hold out')
    order = np.random.default_rng(0).permutation(count)
    held, kept = np.split(order, [min(max(round(part * count), 1), count - 1)])
    return InMemory(records.images[kept], records.labels[kept]), InMemory(records.images[held], records.labels[held])
