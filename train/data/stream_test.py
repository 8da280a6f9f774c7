"""Batches are a function of (seed, step), however many take part in making them."""

import numpy as np
import pytest

from train.config import Loader, Mesh
from train.data.digits import Digits
from train.data.stream import host_rows, place, train_batches, val_batches
from train.sharding import make_mesh

SOURCE = Digits()
INLINE = Loader(threads=0)


def batches(loader=INLINE, **how):
    how = {'seed': 5, 'batch_size': 8, 'steps': 12, **how}
    return list(train_batches(SOURCE, loader=loader, **how))


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a['image'], b['image'])
        np.testing.assert_array_equal(a['label'], b['label'])


@pytest.mark.parametrize('loader', [Loader(threads=1), Loader(threads=4), Loader(threads=4, prefetch=1)], ids=str)
def test_threads_change_nothing(loader):
    assert_equal(batches(loader), batches())


def test_processes_change_nothing():
    assert_equal(batches(Loader(threads=1, workers=2), steps=7), batches(steps=7))


@pytest.mark.parametrize('start', [1, 7, 11])
def test_a_later_start_is_the_same_stream(start):
    assert_equal(batches(start=start), batches()[start:])


def test_hosts_share_the_rows_of_a_batch():
    whole = batches()
    parts = [batches(rows=range(first, last)) for first, last in ((0, 2), (2, 8))]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)]
    assert_equal(joined, whole)


def test_seeds_differ_in_order_and_in_augmentation():
    a, b = batches(), batches(seed=6)
    assert not np.array_equal(a[0]['label'], b[0]['label'])
    assert not np.array_equal(a[0]['image'], b[0]['image'])


def test_every_epoch_is_another_permutation_with_other_augmentation():
    records = len(SOURCE.records('train'))
    first, second = train_batches(SOURCE, seed=5, batch_size=records, steps=2, loader=INLINE)
    labels = np.sort([record['label'] for record in SOURCE.records('train')])
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch['label']), labels)
    assert not np.array_equal(first['label'], second['label'])
    assert len(np.unique(np.concatenate([first['image'], second['image']]), axis=0)) == 2 * records


def test_held_out_data_come_once_and_in_order():
    records = SOURCE.records('val')
    seen = list(val_batches(SOURCE, batch_size=56, loader=Loader()))
    weights = np.concatenate([batch['weight'] for batch in seen])
    labels = np.concatenate([batch['label'] for batch in seen])
    assert weights.sum() == len(records) < len(weights) == 7 * 56
    np.testing.assert_array_equal(labels[weights == 1], [record['label'] for record in records])


def test_rows_go_where_they_belong():
    mesh = make_mesh(Mesh(fsdp=2, tensor=2))
    assert host_rows(mesh, 8) == range(8)
    (batch,) = batches(steps=1)
    placed = place(batch, mesh, 8)
    np.testing.assert_array_equal(placed['image'], batch['image'])
    assert placed['label'].addressable_shards[0].data.shape == (2,)
