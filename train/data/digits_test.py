"""The digits: real, split by class, and still digits after augmentation."""

import numpy as np

from train.data.digits import Digits


def test_split_is_stratified_and_disjoint():
    train, val = (Digits().records(split) for split in ('train', 'val'))
    assert (len(train), len(val)) == (1437, 360)
    for records, part in ((train, 0.8), (val, 0.2)):
        counts = np.bincount([record['label'] for record in records])
        np.testing.assert_allclose(counts, part * np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]), atol=1)


def test_views_have_the_promised_shape_and_range():
    source = Digits(image_size=20)
    record = source.records('train')[3]
    for view in (source.prepare(record), source.augment(record, np.random.default_rng(0))):
        assert view['image'].shape == source.shape == (20, 20, 1) and view['image'].dtype == np.float32
        assert view['image'].min() >= 0 and view['image'].max() <= 1
        assert view['label'] == record['label']


def test_without_enlarging_the_pixels_are_the_original():
    record = Digits().records('train')[0]
    np.testing.assert_allclose(Digits(image_size=8).prepare(record)['image'][..., 0], record['image'], atol=1e-6)


def test_no_augmentation_is_the_evaluated_view():
    source = Digits(rotate=0, shift=0, zoom=0)
    record = source.records('train')[0]
    same = source.augment(record, np.random.default_rng(0))
    np.testing.assert_array_equal(same['image'], source.prepare(record)['image'])


def test_a_shift_moves_the_ink_by_that_much():
    square = np.pad(np.ones((2, 2), np.float32), 3)
    moved = Digits()._view(square, shift=(0.125, 0.25))[..., 0]
    x, y = (np.arange(16) @ moved.sum(axis) / moved.sum() for axis in (0, 1))
    np.testing.assert_allclose((x, y), (7.5 - 2, 7.5 - 4), atol=0.05)


def test_augmentation_keeps_the_digit_near():
    source = Digits()
    rng = np.random.default_rng(0)
    for record in source.records('train')[:20]:
        plain, moved = source.prepare(record)['image'], source.augment(record, rng)['image']
        assert 0.02 < np.abs(plain - moved).mean() < 0.3
