"""Position tables on another grid, against torch's and JAX's own resizing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vit_flax import resize_position_embedding

GRIDS = [
    ((6, 9), (11, 7)),
    ((6, 9), (3, 4)),
    ((14, 14), (24, 24)),
    ((7, 5), (7, 5)),
    ((5, 8), (1, 1)),
    ((1, 4), (3, 2)),
]


def table_of(grid, prefix, dtype=np.float64):
    return np.random.default_rng(0).normal(size=(prefix + grid[0] * grid[1], 5)).astype(dtype)


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('prefix', [0, 1, 5])
@pytest.mark.parametrize(('old', 'new'), GRIDS)
def test_as_torch(old, new, prefix, antialias):
    table = table_of(old, prefix)
    grid = torch.from_numpy(table[prefix:]).reshape(1, *old, 5).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(grid, size=new, mode='bicubic', align_corners=False, antialias=antialias)
    want = np.concatenate([table[:prefix], want[0].permute(1, 2, 0).reshape(-1, 5).numpy()])
    got = resize_position_embedding(table, old, new, prefix_tokens=prefix, antialias=antialias)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    in_jit = jax.jit(lambda t: resize_position_embedding(t[None], old, new, prefix_tokens=prefix, antialias=antialias))
    np.testing.assert_allclose(in_jit(table)[0], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize(('old', 'new'), GRIDS)
def test_as_jax(old, new, antialias):
    table = table_of(old, 1)
    want = jax.image.resize(table[1:].reshape(*old, 5), (*new, 5), 'bicubic', antialias=antialias).reshape(-1, 5)
    got = resize_position_embedding(table, old, new, prefix_tokens=1, method='jax_bicubic', antialias=antialias)
    np.testing.assert_array_equal(got, np.concatenate([table[:1], want]))


@pytest.mark.parametrize('antialias', [False, True])
def test_series_and_videos(antialias):
    """A series is an image of one row; the frames of a video are resized like images, then its pixels like series."""

    def resize(table, old, new):
        return np.asarray(resize_position_embedding(table, old, new, antialias=antialias))

    series = np.random.default_rng(0).normal(size=(9, 5))
    np.testing.assert_allclose(resize(series, (9,), (4,)), resize(series, (1, 9), (1, 4)), atol=1e-12)
    video = np.random.default_rng(1).normal(size=(4, 6 * 9, 5))
    frames = np.stack([resize(frame, (6, 9), (3, 11)) for frame in video])
    want = np.stack([resize(pixel, (1, 4), (1, 7)) for pixel in np.moveaxis(frames, 1, 0)], axis=1)
    got = resize(video.reshape(-1, 5), (4, 6, 9), (7, 3, 11))
    np.testing.assert_allclose(got, want.reshape(-1, 5), atol=1e-12)


def test_the_two_methods_differ():
    table = table_of((6, 9), 0)
    torch_like = resize_position_embedding(table, (6, 9), (11, 7))
    assert np.abs(torch_like - resize_position_embedding(table, (6, 9), (11, 7), method='jax_bicubic')).max() > 1e-2


def test_same_grid_is_the_same_table_and_dtypes_stay():
    table = table_of((6, 9), 1, np.float32)
    np.testing.assert_array_equal(resize_position_embedding(table, (6, 9), (6, 9), prefix_tokens=1), table)
    low = resize_position_embedding(jnp.asarray(table, jnp.bfloat16), (6, 9), (4, 4), prefix_tokens=1)
    assert low.dtype == jnp.bfloat16 and low.shape == (17, 5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r'does not hold 1 prefix tokens and a grid of old_grid=.6, 8.'):
        resize_position_embedding(table_of((6, 9), 1), (6, 8), (3, 3), prefix_tokens=1)
    with pytest.raises(ValueError, match="method='bicubic' is unknown: use one of 'torch_bicubic', 'jax_bicubic'"):
        resize_position_embedding(table_of((6, 9), 0), (6, 9), (3, 3), method='bicubic')
    with pytest.raises(ValueError, match=r'new_grid=.0, 3.'):
        resize_position_embedding(table_of((6, 9), 0), (6, 9), (0, 3))
    with pytest.raises(ValueError, match=r'new_grid=.2, 3, 3. must have 2 axes'):
        resize_position_embedding(table_of((6, 9), 0), (6, 9), (2, 3, 3))
