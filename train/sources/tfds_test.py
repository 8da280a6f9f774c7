"""The adapter to TensorFlow Datasets, on a stand-in that has what it uses of a builder."""

import io
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from train.errors import UserError
from train.sources.tfds import Tfds


@dataclass
class ImageFeature:
    shape: tuple = (None, None, 3)


@dataclass
class ClassLabel:
    names: list


class Features:
    """No dict: it can be asked for an item and for all items."""

    def __init__(self, features: dict):
        self._features = features

    def __getitem__(self, name):
        return self._features[name]

    def items(self):
        return self._features.items()


@dataclass
class Builder:
    features: dict
    rows: dict

    @property
    def info(self):
        return SimpleNamespace(features=Features(self.features), splits=self.rows)

    def as_data_source(self, split, decoders):
        assert decoders == {'image': 'not decoded'}
        if split not in self.rows:
            raise ValueError(f'Unknown split {split}\nand more lines')
        return self.rows[split]


def rows(labels, size=(8, 6)):
    found = []
    for shade, label in enumerate(labels):
        file = io.BytesIO()
        Image.new('L', size, shade).save(file, 'PNG')
        found.append({'image': file.getvalue(), 'label': label})
    return found


FEATURES = {'image': ImageFeature(), 'label': ClassLabel(['cat', 'dog']), 'id': None}
SPLITS = {'train': rows([0, 1, 1]), 'test': rows([1, -1])}


@pytest.fixture
def library(monkeypatch):
    there: dict = {}
    module = ModuleType('tensorflow_datasets')

    def builder(name, data_dir):
        if name not in there:
            raise ValueError(f'Dataset {name} not found.\nand more lines')
        return there[name]

    decode = SimpleNamespace(SkipDecoding=lambda: 'not decoded')
    features = SimpleNamespace(Image=ImageFeature, ClassLabel=ClassLabel)
    vars(module).update(builder=builder, decode=decode, features=features)
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', module)
    return there


@pytest.mark.parametrize(
    'shape, expected', [((None, None, 3), (0, 0, 3)), ((6, 8, 1), (6, 8, 1)), ((6, 8, 4), (6, 8, 3))]
)
def test_images_and_labels(library, shape, expected):
    library['pets'] = Builder({**FEATURES, 'image': ImageFeature(shape)}, SPLITS)
    source = Tfds(dataset='pets')
    source.check()
    assert source.classes == ('cat', 'dog') and source.shape == expected and len(source.mean) == expected[2]
    records = source.records('train')
    assert [int(record['label']) for record in records] == [0, 1, 1]
    assert [int(record['image'].mean()) for record in records] == [0, 1, 2]
    assert records[0]['image'].shape == (6, 8, expected[2])


def test_the_label_of_an_unlabelled_split(library):
    library['pets'] = Builder(FEATURES, SPLITS)
    with pytest.raises(UserError, match='image 1 of pets, test: label -1 is out of range for 2 classes'):
        Tfds(dataset='pets').records('val')[1]


def test_without_a_held_out_split_the_last_tenth_is_held_out(library):
    parts = {'train[:90%]': rows([0] * 9), 'train[90%:]': rows([1])}
    builder = Builder(FEATURES, parts)
    library['pets'] = builder
    source = Tfds(dataset='pets')
    assert (len(source.records('train')), len(source.records('val'))) == (9, 1)


@pytest.mark.parametrize(
    'features, options, message',
    [
        (
            FEATURES,
            dict(dataset='cats'),
            "data.dataset='cats' is not known or not in .*: Dataset cats not found: prepare it",
        ),
        (FEATURES, dict(image='id'), "pets: 'id' holds no images: there are: image"),
        (FEATURES, dict(label='lable'), "pets: 'lable' holds no class labels: did you mean 'label'"),
        (FEATURES, dict(train_split='trian'), 'pets, trian: Unknown split trian: prepare it'),
        (FEATURES, dict(train_split='none'), 'pets has no images in none'),
    ],
)
def test_what_is_wrong_is_said_in_a_line(library, features, options, message):
    library['pets'] = Builder(features, {**SPLITS, 'none': []})
    with pytest.raises(UserError, match=message) as refused:
        Tfds(**{'dataset': 'pets', **options}).records('train')
    assert '\n' not in str(refused.value)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
    with pytest.raises(UserError, match=r"pip install 'vit-linen\[tfds\]'"):
        Tfds().records('train')
