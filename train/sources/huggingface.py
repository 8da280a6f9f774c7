"""Data sets of Hugging Face's `datasets`: from the hub, or from a folder that `save_to_disk` wrote."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from train.errors import UserError, nearest
from train.places import place
from train.sources.pictures import MEAN, STD, Corrupt, Pictures, check_options
from train.sources.source import Source, Split

HELP = (
    'give --data.dataset NAME of a data set on https://huggingface.co/datasets, such as uoft-cs/cifar10, or '
    '--data.path FOLDER, written by save_to_disk'
)


@dataclass(frozen=True)
class _Rows(Sequence):
    """Pairs of an encoded image and a label.

    Attributes:
      dataset: a split, its images not decoded.
      image, label: names of its columns.
      numbers: of labels that are not numbers from 0 to begin with.
    """

    dataset: Any
    image: str
    label: str
    numbers: dict | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        row = self.dataset[int(index)]
        label = row[self.label]
        label = label if self.numbers is None else self.numbers.get(label, -1)
        picture = row[self.image]
        # A data set may hold paths instead of the images themselves, or neither.
        path = None if picture is None or picture['bytes'] else picture['path']
        file = path or io.BytesIO((picture or {}).get('bytes') or b'')
        return file, -1 if label is None else label


@dataclass(frozen=True)
class HuggingFace(Source):
    """A data set of images from Hugging Face (pip install 'vit-linen[huggingface]')."""

    dataset: str = ''
    """Name on the hub, such as uoft-cs/cifar10; it is downloaded once."""
    path: str = ''
    """Instead of a name: a folder that save_to_disk wrote."""
    subset: str = ''
    """Of a data set that has several."""
    train_split: str = 'train'
    """What is trained on."""
    val_split: str = ''
    """What is held out. By default validation, valid, val or test, the first there is, or else a part of train."""
    held_out: float = 0.1
    """That part."""
    image: str = ''
    """Column of the images. By default the only one that has images."""
    label: str = ''
    """Column of the labels. By default the only one that has class labels."""
    channels: int = 3
    """What images are turned into: 3 for colours, 1 for grey."""
    corrupt: Corrupt = 'refuse'
    """What an unreadable image does: end the run, or be counted and replaced by the next readable one."""

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
        return self._loaded[0]

    def check(self) -> None:
        check_options(self.held_out, self.channels, self.corrupt)
        if bool(self.dataset) == bool(self.path):
            raise UserError(f'data.dataset={self.dataset!r} and data.path={self.path!r}: one of both is needed: {HELP}')

    def records(self, split: Split) -> Pictures:
        classes, rows = self._loaded
        return Pictures(rows[split], len(classes), self._where, self.channels, self.corrupt)

    @property
    def _where(self) -> str:
        return self.dataset or self.path

    @cached_property
    def _loaded(self) -> tuple[tuple[str, ...], dict[Split, _Rows]]:
        """Names of the classes, and both splits."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                "data sets of Hugging Face need their library: pip install 'vit-linen[huggingface]'"
            ) from error
        splits = self._splits(datasets)
        train = splits['train']
        image = self.image or self._only(train, datasets.Image, 'image', 'images')
        label = self.label or self._only(train, datasets.ClassLabel, 'label', 'class labels')
        for column in (image, label):
            if column not in train.features:
                raise UserError(f'{self._where} has no column {column!r}: {nearest(column, train.features)}')
        if isinstance(train.features[label], datasets.ClassLabel):
            names, numbers = train.features[label].names, None
        else:
            try:
                names = sorted(train.unique(label))
            except Exception as error:  # of lists, of nothing beside words, ...
                raise UserError(f'{self._where}: column {label!r} has no labels that can be sorted: {error}') from error
            numbers = {name: number for number, name in enumerate(names)}
        encoded = {name: split.cast_column(image, datasets.Image(decode=False)) for name, split in splits.items()}
        rows = {name: _Rows(split, image, label, numbers) for name, split in encoded.items()}
        for name, split in rows.items():
            if not len(split):
                raise UserError(f'{self._where} has no images in {name}')
        return tuple(map(str, names)), rows

    def _splits(self, datasets) -> dict[Split, Any]:
        try:
            if self.path:
                loaded = datasets.load_from_disk(str(place(self.path, 'data.path')))
            else:
                loaded = datasets.load_dataset(self.dataset, self.subset or None)
        except UserError:
            raise
        except Exception as error:  # the library and its servers have many
            reason = str(error).strip().partition('\n')[0].rstrip('.: ')
            raise UserError(f'{self._where!r} cannot be loaded: {reason}: {HELP}') from error
        if not isinstance(loaded, dict):  # a single split was saved
            loaded = {self.train_split: loaded}
        for name in filter(None, (self.train_split, self.val_split)):
            if name not in loaded:
                raise UserError(f'{self._where} has no split {name!r}: {nearest(name, loaded)}')
        usual = (name for name in ('validation', 'valid', 'val', 'test') if name in loaded)
        val = self.val_split or next(usual, '')
        if val:
            return {'train': loaded[self.train_split], 'val': loaded[val]}
        parts = loaded[self.train_split].train_test_split(test_size=self.held_out, seed=0)
        return {'train': parts['train'], 'val': parts['test']}

    def _only(self, dataset, kind: type, option: str, what: str) -> str:
        found = [name for name, feature in dataset.features.items() if isinstance(feature, kind)]
        if len(found) != 1:
            raise UserError(
                f'{self._where} has {len(found)} columns of {what}: choose one with --data.{option}, '
                f'there are: {", ".join(dataset.features)}'
            )
        return found[0]
