from functools import partial

import jax
import numpy as np
import pytest

from vit_flax.objectives.masking import block_split, masked_count, random_split, tube_split

KEY = jax.random.key(0)


def as_mask(masked, visible):
    """Bool `[b n]`; every patch is on one side, once."""
    both = np.concatenate([masked, visible], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.broadcast_to(np.arange(both.shape[1]), both.shape))
    mask = np.zeros(both.shape, bool)
    np.put_along_axis(mask, np.asarray(masked), True, axis=1)
    return mask


def test_every_patch_is_hidden_equally_often():
    mask = as_mask(*random_split(KEY, 2000, 10, 0.35))
    assert (mask.sum(axis=1) == 3).all()
    np.testing.assert_allclose(mask.mean(axis=0), 0.3, atol=0.05)


def test_tubes_hide_the_same_places_at_every_step():
    mask = as_mask(*tube_split(KEY, 5, (3, 4, 2), 0.5)).reshape(5, 3, 4, 2)
    assert (mask == mask[:, :1]).all() and (mask[:, 0].sum(axis=(1, 2)) == 4).all()
    assert not (mask[0] == mask[1]).all()


def test_blocks_are_hidden_whole():
    mask = as_mask(*block_split(KEY, 5, (6, 4), 0.6, (3, 2))).reshape(5, 2, 3, 2, 2)
    blocks = mask.any(axis=(2, 4))
    assert (mask.all(axis=(2, 4)) == blocks).all() and (blocks.sum(axis=(1, 2)) == 2).all()


def test_draws_are_compiled_to_the_same():
    draw = partial(tube_split, batch=5, grid=(3, 4, 2), masking_ratio=0.5)
    for mine, theirs in zip(jax.jit(draw)(KEY), draw(KEY), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_mistakes():
    with pytest.raises(ValueError, match='masking_ratio=1 must be between 0 and 1'):
        masked_count(1, 10)
    with pytest.raises(ValueError, match=r'masking_ratio=0\.05 masks none of 10 patches'):
        random_split(KEY, 2, 10, 0.05)
    with pytest.raises(ValueError, match=r'blocks of \(4, 2\) patches do not tile a grid of \(6, 4\) patches'):
        block_split(KEY, 2, (6, 4), 0.6, (4, 2))
