"""Noise: as asked for, different from record to record, the same in every run."""

import dataclasses

import numpy as np
import pytest

from train.errors import UserError
from train.sources.synthetic import Synthetic

SOURCE = Synthetic(image_size=6, channels=4, num_classes=3, examples=10)


def test_records_are_as_asked_for():
    records, held_out = SOURCE.records('train'), SOURCE.records('val')
    assert (len(records), len(held_out)) == (10, 3) and SOURCE.classes == ('0', '1', '2')
    assert [int(record['label']) for record in records] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert {record['image'].shape for record in records} == {SOURCE.shape} == {(6, 6, 4)}
    images = np.stack([record['image'] for record in [*records, *held_out]])
    assert images.dtype == np.uint8 and len(np.unique(images, axis=0)) == 13
    np.testing.assert_array_equal(images[4], SOURCE.records('train')[4]['image'])


@pytest.mark.parametrize('option', ['image_size', 'channels', 'num_classes', 'examples'])
def test_nothing_is_refused(option):
    with pytest.raises(UserError, match=rf'data\.{option}=0'):
        dataclasses.replace(SOURCE, **{option: 0}).check()
