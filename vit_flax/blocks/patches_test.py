import jax.numpy as jnp
import numpy as np
import pytest

from vit_flax.blocks.patches import patchify, unpatchify


@pytest.mark.parametrize('lengths, patch', [((12,), (3,)), ((6, 20), (2, 5)), ((4, 6, 10), (2, 3, 5))])
def test_patches_are_put_together_again(lengths, patch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *lengths, 3)))
    patches = patchify(x, patch)
    grid = patches.shape[1:-1]
    assert grid == tuple(length // part for length, part in zip(lengths, patch, strict=True))
    np.testing.assert_array_equal(unpatchify(patches, grid, patch), x)
    np.testing.assert_array_equal(unpatchify(patches.reshape(2, -1, patches.shape[-1]), grid, patch), x)
