"""Tables of sines and cosines of grids of other than two axes; resizing is tested against torch in parity_tests."""

import numpy as np
import pytest

from vit_flax.blocks.positions import geometric_matrix, sincos_2d, sincos_grid


def test_two_axes_are_those_of_images():
    np.testing.assert_array_equal(sincos_grid((3, 5), 12), sincos_2d(3, 5, 12))


@pytest.mark.parametrize('grid, dim', [((7,), 10), ((2, 3, 4), 20), ((2, 3, 2, 2), 16)])
def test_each_place_has_a_row_of_its_own(grid, dim):
    table = sincos_grid(grid, dim)
    assert table.shape == (np.prod(grid), dim)
    assert len(np.unique(table.round(9), axis=0)) == len(table)
    used = dim // (2 * len(grid)) * 2 * len(grid)
    assert not table[:, used:].any()
    # sines and cosines of the same angles
    np.testing.assert_allclose((table**2).sum(axis=1), used / 2)


def test_the_last_axis_comes_first():
    table = sincos_grid((2, 3, 4), 12).reshape(2, 3, 4, 12)
    np.testing.assert_allclose(table[1, 2, :, 0], np.sin(np.arange(4)))
    np.testing.assert_allclose(table[1, :, 2, 4], np.sin(np.arange(3)))
    np.testing.assert_allclose(table[:, 1, 2, 8], np.sin(np.arange(2)))


def test_too_narrow():
    with pytest.raises(ValueError, match='dim=11 must be at least 12 for sine-cosine positions along 3 axes'):
        sincos_grid((2, 2, 2), 11)


@pytest.mark.parametrize('old, new', [(1, 1), (1, 5), (3, 1), (3, 3), (5, 9)])
def test_geometric_offsets_keep_constants(old, new):
    np.testing.assert_allclose(geometric_matrix(old, new) @ np.ones(old), np.ones(new))
