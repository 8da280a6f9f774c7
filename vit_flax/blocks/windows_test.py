import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks import windows
from vit_flax.blocks.stages import per_stage


@pytest.mark.parametrize('take, give', [('to_windows', 'from_windows'), ('to_grids', 'from_grids')])
def test_there_and_back(take, give):
    x = jnp.arange(2 * 6 * 12 * 5).reshape(2, 6, 12, 5)
    cut = getattr(windows, take)(x, (3, 2))
    assert cut.shape == (2 * 2 * 6, 6, 5)
    np.testing.assert_array_equal(getattr(windows, give)(cut, (3, 2), (2, 6)), x)


def test_windows_hold_neighbours_and_grids_do_not():
    x = jnp.arange(4 * 6).reshape(1, 4, 6, 1)
    np.testing.assert_array_equal(windows.to_windows(x, 2)[0].ravel(), [0, 1, 6, 7])
    np.testing.assert_array_equal(windows.to_grids(x, 2)[0].ravel(), [0, 3, 12, 15])
    np.testing.assert_array_equal(windows.from_windows(windows.to_windows(x, 2), 2, (2, 3)), x)
    np.testing.assert_array_equal(windows.from_grids(windows.to_grids(x, 2), 2, (2, 3)), x)


def test_windows_that_do_not_tile_the_map():
    with pytest.raises(ValueError, match=r'local=\(4, 4\) does not divide the feature map of 6 x 12'):
        windows.to_windows(jnp.zeros((1, 6, 12, 1)), 4, 'local')


def test_bias_belongs_to_the_way_alone():
    bias = windows.RelativePositionBias((2, 3), heads=2)
    table = jnp.arange(2.0 * bias.rows).reshape(-1, 2)
    got = np.asarray(bias.apply({'params': {'embedding': table}}))
    assert got.shape == (2, 6, 6) and bias.rows == 15
    # from the first place to the second, from the fourth to the fifth: one to the right
    assert got[0, 0, 1] == got[0, 3, 4] != got[0, 1, 0]
    assert len(np.unique(got[0])) == bias.rows


def test_tables_start_as_embeddings():
    bias = windows.RelativePositionBias(7, heads=8)
    table = bias.init(jax.random.key(0))['params']['embedding']
    assert table.shape == (169, 8) and abs(table.std() - 1) < 0.1


@pytest.mark.parametrize('size, grid', [(3, (5, 5)), ((2, 3), (3, 5))])
def test_tables_state_their_grid(size, grid):
    assert windows.RelativePositionBias(size, heads=2).position_tables()['embedding'].grid == grid


def test_settings_of_stages():
    assert per_stage('heads', 3, 2) == (3, 3)
    assert per_stage('heads', [3, None], 2) == (3, None)
    with pytest.raises(ValueError, match=r'heads=\(1, 2, 3\) must be one value, or one for each of the 2 stages'):
        per_stage('heads', (1, 2, 3), 2)
