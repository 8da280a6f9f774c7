"""What the plots compute; that they are drawn is tested with whole runs."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from train.plots.attention import rollout
from train.plots.curves import running_mean, series
from train.plots.style import picture


def test_rollout_follows_the_tokens_through_the_blocks():
    first, second = np.roll(np.eye(3), 1, axis=1), np.ones((3, 3)) / 3
    maps = np.stack([first, second])[None, :, None]
    expected = (second / 2 + np.eye(3) / 2) @ (first / 2 + np.eye(3) / 2)
    np.testing.assert_allclose(rollout(maps)[0], expected)
    np.testing.assert_allclose(rollout(maps).sum(-1), 1)


def test_rollout_averages_the_heads():
    heads = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3, 5, 4))
    np.testing.assert_allclose(rollout(heads), rollout(heads.mean(2, keepdims=True)))


def test_running_mean_keeps_length_and_level():
    np.testing.assert_allclose(running_mean(np.ones(200)), 1)
    np.testing.assert_allclose(running_mean(np.arange(5.0)), np.arange(5))
    assert abs(running_mean(np.tile([0.0, 1.0], 100))[100] - 0.5) < 0.1


def test_series_takes_the_rows_that_have_the_name():
    steps, values = series([{'step': 1, 'a': 5}, {'step': 2}, {'step': 3, 'a': 7}], 'a')
    assert steps.tolist() == [1, 3] and values.tolist() == [5, 7]


@pytest.mark.parametrize(
    'shape, drawn, colours',
    [((5, 4), (5, 4), 'gray_r'), ((5, 4, 1), (5, 4), 'gray_r'), ((5, 4, 3), (5, 4, 3), 'viridis')],
)
def test_one_channel_is_drawn_as_ink_on_paper(shape, drawn, colours):
    axes = Figure().subplots()
    picture(axes, np.random.default_rng(0).random(shape))
    (image,) = axes.images
    assert np.asarray(image.get_array()).shape == drawn and image.get_cmap().name == colours
