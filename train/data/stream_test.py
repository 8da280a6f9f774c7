"""Batches are a function of (seed, step), however many take part in making them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from train.config import Loader, Mesh
from train.data.augment import Augment
from train.data.stream import host_rows, place, rows_at, train_batches, val_batches
from train.errors import UserError
from train.sharding import make_mesh
from train.sources.digits import Digits
from train.sources.image_folder import ImageFolder

RECORDS = Digits().records('train')
AUGMENT = Augment(image_size=16, rotate=12, shift=0.1, zoom=0.12)
INLINE = Loader(threads=0)
MUCH = Augment(image_size=20, resized_crop=(0.3, 1.0), flip=0.5, randaugment=2, erase=0.5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Pieces of scikit-learn's two photographs in two classes, some of them damaged."""
    from sklearn.datasets import load_sample_images

    root = tmp_path_factory.mktemp('folder')
    for name, photograph in zip(('palace', 'flower'), load_sample_images().images, strict=True):
        for split, count in (('train', 12), ('val', 5)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                piece = photograph[20 * i : 20 * i + 60 + 3 * i, 30 * i : 30 * i + 80]
                Image.fromarray(piece).save(root / split / name / f'{i}.jpg')
    for damaged in ('train/flower/3.jpg', 'train/palace/11.jpg', 'val/flower/1.jpg'):
        (root / damaged).write_bytes((root / damaged).read_bytes()[:700])
    return ImageFolder(path=str(root), corrupt='skip')


def batches(loader=INLINE, records=RECORDS, augment=AUGMENT, **how):
    how = {'seed': 5, 'batch_size': 8, 'steps': 12, **how}
    return list(train_batches(records, augment, loader=loader, **how))


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize('loader', [Loader(threads=1), Loader(threads=4), Loader(threads=4, prefetch=1)], ids=str)
def test_threads_change_nothing(loader):
    assert_equal(batches(loader), batches())


@pytest.mark.parametrize('loader', [Loader(threads=4), Loader(threads=1, workers=2)], ids=str)
def test_nor_do_processes_with_much_augmentation_and_damaged_files(folder, loader):
    records = folder.records('train')
    whole = batches(records=records, augment=MUCH)
    assert_equal(batches(loader, records=records, augment=MUCH), whole)
    # Four epochs of 24 images meet each of the two damaged ones four times.
    met = np.concatenate([batch['skipped'] for batch in whole])
    assert sorted(met[met > 0]) == [6] * 4 + [16] * 4
    images = np.concatenate([batch['image'] for batch in whole])
    assert images.dtype == np.uint8 and len(np.unique(images, axis=0)) == len(images) == 96


@pytest.mark.parametrize('start', [1, 7, 11])
def test_a_later_start_is_the_same_stream(start):
    assert_equal(batches(start=start), batches()[start:])


def test_hosts_share_the_rows_of_a_batch(folder):
    for how in ({}, {'records': folder.records('train'), 'augment': MUCH}):
        whole = batches(**how)
        parts = [batches(rows=range(first, last), **how) for first, last in ((0, 2), (2, 8))]
        joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)]
        assert_equal(joined, whole)


def test_seeds_differ_in_order_and_in_augmentation():
    a, b = batches(), batches(seed=6)
    assert not np.array_equal(a[0]['label'], b[0]['label'])
    assert not np.array_equal(a[0]['image'], b[0]['image'])


def test_every_epoch_is_another_permutation_with_other_augmentation():
    first, second = batches(batch_size=len(RECORDS), steps=2)
    labels = np.sort([record['label'] for record in RECORDS])
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch['label']), labels)
    assert not np.array_equal(first['label'], second['label'])
    assert len(np.unique(np.concatenate([first['image'], second['image']]), axis=0)) == 2 * len(RECORDS)


def test_a_batch_may_be_larger_than_the_data(folder):
    records = folder.records('train')
    (batch,) = batches(records=records, augment=MUCH, batch_size=60, steps=1)
    assert batch['image'].shape == (60, 20, 20, 3) and len(np.unique(batch['image'], axis=0)) == 60
    (held_out,) = val_batches(folder.records('val'), MUCH, batch_size=60, loader=INLINE)
    assert held_out['weight'].sum() == 9  # of ten, one cannot be read


def test_held_out_data_come_once_and_in_order():
    records = Digits().records('val')
    seen = list(val_batches(records, AUGMENT, batch_size=56, loader=Loader()))
    weights = np.concatenate([batch['weight'] for batch in seen])
    labels = np.concatenate([batch['label'] for batch in seen])
    assert weights.sum() == len(records) < len(weights) == 7 * 56
    np.testing.assert_array_equal(labels[weights == 1], [record['label'] for record in records])


def test_what_stands_in_for_an_unreadable_held_out_picture_does_not_count(folder):
    (batch,) = val_batches(folder.records('val'), MUCH, batch_size=10, loader=INLINE)
    assert batch['weight'].tolist() == [1, 0, 1, 1, 1, 1, 1, 1, 1, 1] and batch['skipped'][1] == 2


@pytest.mark.parametrize('loader', [INLINE, Loader(threads=2), Loader(threads=1, workers=2)], ids=str)
def test_a_refused_picture_is_one_clear_message(folder, loader):
    records = dataclasses.replace(folder, corrupt='refuse').records('train')
    with pytest.raises(
        UserError, match=r'(flower/3|palace/11)\.jpg cannot be read: image file is truncated'
    ) as refused:
        batches(loader, records=records, augment=MUCH)
    assert '\n' not in str(refused.value)


def test_photographs_are_decoded_no_larger_than_needed(tmp_path, monkeypatch):
    for split in ('train', 'val'):
        (tmp_path / split / 'a').mkdir(parents=True)
        Image.new('RGB', (640, 320)).save(tmp_path / split / 'a' / '0.jpg')
    source, sizes = ImageFolder(path=str(tmp_path)), []
    evaluated = Augment._evaluated

    def noted(self, image):
        sizes.append(image.shape)
        return evaluated(self, image)

    monkeypatch.setattr(Augment, '_evaluated', noted)
    for augment in (Augment(image_size=32), Augment(image_size=300)):
        list(val_batches(source.records('val'), augment, batch_size=1, loader=INLINE))
        batches(records=source.records('train'), augment=augment, batch_size=1, steps=1)
    assert sizes == [(40, 80, 3)] * 2 + [(320, 640, 3)] * 2


def test_rows_go_where_they_belong():
    mesh = make_mesh(Mesh(fsdp=2, tensor=2))
    assert host_rows(mesh, 8) == [*range(8)]
    (batch,) = batches(steps=1)
    placed = place(batch, mesh, 8)
    np.testing.assert_array_equal(placed['image'], batch['image'])
    assert placed['label'].addressable_shards[0].data.shape == (2,)


def test_rows_of_a_host_need_not_be_contiguous():
    indices = [(slice(4, 6), slice(None)), (slice(0, 2), slice(None)), (slice(4, 6), slice(None)), None]
    assert rows_at(indices, 8) == [0, 1, 4, 5]
    assert rows_at([(slice(None),)], 3) == [0, 1, 2]
