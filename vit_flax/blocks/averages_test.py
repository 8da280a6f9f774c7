import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks.averages import mean_of_each, weighted_mean
from vit_flax.blocks.sigreg import sigreg_loss
from vit_flax.objectives.monitors import spread

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize('axis', [0, 1, -1])
@pytest.mark.parametrize('keepdims', [False, True])
def test_weighted_mean(axis, keepdims):
    x = jnp.asarray(DRAW.normal(size=(4, 4, 4)), jnp.float32)
    weights = jnp.asarray([1.0, 0.0, 2.0, 0.5])
    for given in (weights, None):
        want = np.average(x, axis=axis, weights=given, keepdims=keepdims)
        np.testing.assert_allclose(weighted_mean(x, given, axis, keepdims), want, rtol=1e-5, atol=1e-6)
    assert not weighted_mean(x, jnp.zeros(4), axis, keepdims).any(), 'a batch of nothing but padding'


def test_mean_of_each():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(mean_of_each(x), [2.5, 8.5])
    assert mean_of_each(x[:, 0, 0]).shape == (2,) and mean_of_each(x[:0]).shape == (0,)


def test_rows_of_weight_0_are_in_no_statistic():
    views, weights = jnp.asarray(DRAW.normal(size=(3, 6, 5)), jnp.float32), jnp.asarray([1.0, 1, 1, 1, 0, 0])
    directions = DRAW.normal(size=(7, 5))
    got, want = sigreg_loss(views, directions, weights=weights), sigreg_loss(views[:, :4], directions)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(spread(views, weights), spread(views[:, :4]), rtol=1e-5)
    assert abs(want - sigreg_loss(views, directions)) > 1e-4 and abs(spread(views) - spread(views, weights)) > 1e-4
