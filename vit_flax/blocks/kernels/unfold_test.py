import jax.numpy as jnp
import numpy as np

from vit_flax.blocks.kernels.unfold import unfold


def test_windows_channels_first():
    x = jnp.arange(2 * 7 * 9 * 3.0).reshape(2, 7, 9, 3)
    got = unfold(x, (3, 2), (2, 3), padding=1)
    assert got.shape == (2, 4, 4, 18)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(4):
        for j in range(4):
            window = padded[:, 2 * i : 2 * i + 3, 3 * j : 3 * j + 2]
            np.testing.assert_array_equal(got[:, i, j], np.moveaxis(window, -1, 1).reshape(2, 18))
