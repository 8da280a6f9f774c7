"""Data sets of TensorFlow Datasets, read without TensorFlow."""

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
    'prepare it once, where TensorFlow is installed: `tfds build NAME --file_format=array_record --data_dir FOLDER`, '
    'and give --data.dataset NAME --data.path FOLDER'
)


@dataclass(frozen=True)
class _Rows(Sequence):
    """Pairs of an encoded image and a label."""

    source: Any
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index):
        row = self.source[int(index)]
        return io.BytesIO(row[self.image]), int(row[self.label])


@dataclass(frozen=True)
class Tfds(Source):
    """A data set of images from TensorFlow Datasets (pip install 'vit-linen[tfds]'), prepared as ArrayRecord."""

    dataset: str = 'cifar10'
    """Its name, with a config and version if you like, such as imagenet2012 or oxford_iiit_pet:4.0.0."""
    path: str = '~/tensorflow_datasets'
    """Folder with prepared data sets (data_dir)."""
    train_split: str = 'train'
    """What is trained on; a part such as train[:90%] is possible."""
    val_split: str = ''
    """What is held out. By default validation or test, the first there is, or else the last tenth of train."""
    image: str = 'image'
    """Feature with the images."""
    label: str = 'label'
    """Feature with the class labels."""
    corrupt: Corrupt = 'refuse'
    """What an unreadable image does: end the run, or be counted and replaced by the next readable one."""

    @property
    def mean(self) -> tuple[float, ...]:
        return MEAN[self.shape[2]]

    @property
    def std(self) -> tuple[float, ...]:
        return STD[self.shape[2]]

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self._builder.info.features[self.image].shape
        return height or 0, width or 0, 1 if channels == 1 else 3

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._builder.info.features[self.label].names)

    def check(self) -> None:
        check_options(0.1, 3, self.corrupt)

    def records(self, split: Split) -> Pictures:
        builder, name = self._builder, self._splits[split]
        import tensorflow_datasets as tfds  # by now it is known to be there

        try:
            decoders = {self.image: tfds.decode.SkipDecoding()}
            source = builder.as_data_source(split=name, decoders=decoders)
        except Exception as error:  # the library has many
            raise UserError(f'{self.dataset}, {name}: {_line(error)}: {HELP}') from error
        if not len(source):
            raise UserError(f'{self.dataset} has no images in {name}')
        rows = _Rows(source, self.image, self.label)
        return Pictures(rows, len(self.classes), f'{self.dataset}, {name}', self.shape[2], self.corrupt)

    @property
    def _splits(self) -> dict[Split, str]:
        there = self._builder.info.splits
        if self.val_split:
            return {'train': self.train_split, 'val': self.val_split}
        for name in ('validation', 'test'):
            if name in there:
                return {'train': self.train_split, 'val': name}
        return {'train': f'{self.train_split}[:90%]', 'val': f'{self.train_split}[90%:]'}

    @cached_property
    def _builder(self) -> Any:
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise UserError("data sets of TFDS need its library: pip install 'vit-linen[tfds]'") from error
        folder = place(self.path, 'data.path')
        try:
            builder = tfds.builder(self.dataset, data_dir=folder)
        except Exception as error:  # the library has many
            raise UserError(
                f'data.dataset={self.dataset!r} is not known or not in {folder}: {_line(error)}: {HELP}'
            ) from error
        features = dict(builder.info.features.items())
        for option, kind, what in (
            ('image', tfds.features.Image, 'images'),
            ('label', tfds.features.ClassLabel, 'class labels'),
        ):
            name = getattr(self, option)
            if not isinstance(features.get(name), kind):
                there = [key for key, feature in features.items() if isinstance(feature, kind)]
                raise UserError(f'{self.dataset}: {name!r} holds no {what}: {nearest(name, there)}')
        return builder


def _line(error: Exception) -> str:
    return str(error).strip().partition('\n')[0].rstrip('.: ')
