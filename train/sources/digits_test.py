"""The digits: real, and divided by class."""

import numpy as np

from train.sources.digits import Digits


def test_split_is_stratified_and_disjoint():
    train, val = (Digits().records(split) for split in ('train', 'val'))
    assert (len(train), len(val)) == (1437, 360)
    for records, part in ((train, 0.8), (val, 0.2)):
        counts = np.bincount([record['label'] for record in records])
        np.testing.assert_allclose(counts, part * np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]), atol=1)


def test_images_are_the_original_in_other_steps_of_grey():
    from sklearn.datasets import load_digits

    source = Digits()
    record = source.records('train')[3]
    assert record['image'].shape == source.shape == (8, 8, 1) and record['image'].dtype == np.uint8
    originals = load_digits()
    found = np.flatnonzero((np.round(record['image'][..., 0] / 255 * 16) == originals.images).all((1, 2)))
    assert record['label'] in originals.target[found]
