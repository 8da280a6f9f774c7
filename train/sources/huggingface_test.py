"""The adapter to Hugging Face's `datasets`, on a stand-in: the library brings pyarrow and pandas, 265 MiB.

The stand-in has what the adapter uses of `Dataset`, `DatasetDict`, `Image` and `ClassLabel`.
"""

import io
import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from train.errors import UserError
from train.sources.huggingface import HuggingFace


@dataclass
class ImageFeature:
    decode: bool = True


@dataclass
class ClassLabel:
    names: list


@dataclass
class Value:
    dtype: str


@dataclass
class Dataset:
    """A table; images are kept encoded, as in the library."""

    rows: list
    features: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        assert type(index) is int
        row = dict(self.rows[index])
        for name, feature in self.features.items():
            if isinstance(feature, ImageFeature) and feature.decode:
                row[name] = Image.open(io.BytesIO(row[name]['bytes']))
        return row

    def cast_column(self, column, feature):
        return Dataset(self.rows, {**self.features, column: feature})

    def unique(self, column):
        return list(dict.fromkeys(row[column] for row in self.rows))

    def train_test_split(self, test_size, seed):
        first = round(test_size * len(self))
        return {'train': Dataset(self.rows[first:], self.features), 'test': Dataset(self.rows[:first], self.features)}


def rows(labels, column='label'):
    found = []
    for shade, label in enumerate(labels):
        file = io.BytesIO()
        Image.new('RGB', (8, 6), (shade,) * 3).save(file, 'PNG')
        found.append({'image': {'bytes': file.getvalue(), 'path': None}, column: label})
    return found


FEATURES = {'image': ImageFeature(), 'label': ClassLabel(['cat', 'dog'])}
TRAIN, VAL = Dataset(rows([0, 1, 1, 0, 1]), FEATURES), Dataset(rows([1, 0]), FEATURES)


@pytest.fixture
def library(monkeypatch):
    """Makes `datasets` importable; what it finds is put into the dict that this returns."""
    there: dict = {}
    module = ModuleType('datasets')

    def load(name, subset=None):
        if (name, subset) not in there:
            raise FileNotFoundError(f'there is no {name}\nand more lines')
        return there[name, subset]

    vars(module).update(load_dataset=load, load_from_disk=load, Image=ImageFeature, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, 'datasets', module)
    return there


@pytest.mark.parametrize('options', [dict(dataset='pets'), dict(path='here'), dict(dataset='pets', subset='small')])
@pytest.mark.parametrize('held_out', ['validation', 'test'])
def test_images_and_labels(library, options, held_out):
    where = options.get('dataset') or options['path'], options.get('subset')
    library[where] = {'train': TRAIN, held_out: VAL}
    source = HuggingFace(**options)
    source.check()
    assert source.classes == ('cat', 'dog') and source.shape == (0, 0, 3)
    train, val = source.records('train'), source.records('val')
    assert [int(record['label']) for record in train] == [0, 1, 1, 0, 1] and len(val) == 2
    assert [int(record['image'].mean()) for record in train] == [0, 1, 2, 3, 4]
    assert train[np.int64(1)]['image'].shape == (6, 8, 3)


def test_without_a_held_out_split_a_part_is_held_out(library):
    library['pets', None] = {'train': TRAIN}
    source = HuggingFace(dataset='pets', held_out=0.4)
    assert (len(source.records('train')), len(source.records('val'))) == (3, 2)


def test_a_single_split_that_was_saved(library):
    library['here', None] = TRAIN
    assert len(HuggingFace(path='here', held_out=0.2).records('train')) == 4


def test_labels_that_are_words(library):
    features = {'image': ImageFeature(), 'kind': Value('string')}
    words = Dataset(rows(['fox', 'ape', 'fox'], 'kind'), features), Dataset(rows(['ape', 'elk'], 'kind'), features)
    library['zoo', None] = dict(zip(('train', 'val'), words, strict=True))
    source = HuggingFace(dataset='zoo', label='kind')
    assert source.classes == ('ape', 'fox')
    assert [int(record['label']) for record in source.records('train')] == [1, 0, 1]
    with pytest.raises(UserError, match='image 1 of zoo: label -1 is out of range for 2 classes'):
        source.records('val')[1]


def test_unreadable_pictures(library):
    damaged = [dict(row) for row in TRAIN.rows]
    damaged[2]['image'] = {'bytes': b'no image', 'path': None}
    library['pets', None] = {'train': Dataset(damaged, FEATURES), 'test': VAL}
    with pytest.raises(UserError, match=r'image 2 of pets cannot be read: it is no JPEG.*--data\.corrupt skip'):
        HuggingFace(dataset='pets').records('train')[2]
    assert HuggingFace(dataset='pets', corrupt='skip').records('train')[2]['skipped'] == 3


@pytest.mark.parametrize(
    'there, options, message',
    [
        ({}, dict(dataset='pets'), "'pets' cannot be loaded: there is no pets: give --data.dataset NAME"),
        ({'test': VAL}, {}, "pets has no split 'train': there are: test"),
        ({'train': TRAIN, 'test': VAL}, dict(val_split='tests'), "pets has no split 'tests': did you mean 'test'"),
        ({'train': TRAIN, 'test': VAL}, dict(image='photo'), "no column 'photo'"),
        ({'train': TRAIN, 'test': VAL}, dict(label='labels'), "no column 'labels': did you mean 'label'"),
        ({'train': Dataset([], FEATURES), 'test': VAL}, {}, 'pets has no images in train'),
        (
            {'train': Dataset(TRAIN.rows, {**FEATURES, 'fine': ClassLabel([])}), 'test': VAL},
            {},
            'has 2 columns of class labels: choose one with --data.label, there are: image, label, fine',
        ),
        ({'train': Dataset([], {'label': FEATURES['label']}), 'test': VAL}, {}, 'has 0 columns of images'),
    ],
)
def test_what_is_wrong_is_said_in_a_line(library, there, options, message):
    if there:
        library['pets', None] = there
    with pytest.raises(UserError, match=message) as refused:
        _ = HuggingFace(**{'dataset': 'pets', **options}).classes
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('options', [{}, dict(dataset='pets', path='here')])
def test_a_name_or_a_folder(options):
    with pytest.raises(UserError, match='one of both is needed: give'):
        HuggingFace(**options).check()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(UserError, match=r"pip install 'vit-linen\[huggingface\]'"):
        HuggingFace(dataset='pets').records('train')
