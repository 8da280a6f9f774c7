"""What `Eva` does in training alone: patches that are dropped with their angles, and moved coordinates."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity_tests.cases.eva import DINO_3, EVA_02, MIXED, SMALL
from vit_flax.models.eva import Eva, augmented


@pytest.mark.parametrize('options', [pytest.param(EVA_02, marks=pytest.mark.exhaustive), MIXED])
def test_a_patch_takes_its_angles_with_it(options: dict):
    """An image of some patches is encoded as if these were all, with the positions of the whole."""
    model = Eva(**{**SMALL, **options}, patch_drop_rate=0.5)
    images = np.random.default_rng(0).normal(size=(2, 24, 36, 3))
    variables = model.init(jax.random.key(0), images)
    kept = np.array([[1, 2, 5, 6, 11, 12, 13, 14, 17, 20, 21, 22], [23, 22, 21, 20, 10, 9, 8, 7, 3, 2, 1, 0]])

    def drawn(rng, batch, tokens, rate):
        assert (batch, tokens, rate) == (2, 24, 0.5)
        return jnp.asarray(kept)

    with mock.patch('vit_flax.models.eva.draw_patches', drawn):
        got = model.apply(variables, images, True, method='forward_features', rngs={'mask': jax.random.key(1)})

    def by_hand(module: Eva, image: np.ndarray, kept: np.ndarray):
        index = np.concatenate([[0], 1 + kept])
        tokens = module.embed(image[None])[:, index]
        angles = jnp.pad(
            jnp.asarray(module.angles((6, 4))), [(0, 0)] * (module.rope_type == 'mixed') * 2 + [(1, 0), (0, 0)]
        )
        angles, layer = angles[..., index, :], jnp.arange(2)
        if module.rope_type == 'mixed':
            return module.run_blocks(tokens, False, None, positions=angles, layer=layer)
        return module.run_blocks(tokens, False, None, angles, layer=layer)

    for image, places, row in zip(images, kept, got, strict=True):
        np.testing.assert_allclose(row, model.apply(variables, image, places, method=by_hand)[0], rtol=1e-9, atol=1e-12)


def test_coordinates_move_within_their_bounds_together():
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 4), indexing='ij'), -1).reshape(-1, 2)
    found = []
    for seed in range(40):
        key = jax.random.key(seed)
        shifted = np.asarray(augmented(key, grid, 0.3, None, None)) - grid
        assert np.ptp(shifted, axis=0).max() < 1e-12 and np.abs(shifted).max() <= 0.3
        stretched = np.asarray(augmented(key, grid, None, 2.0, None))[0] / grid[0]
        scaled = np.asarray(augmented(key, grid, None, None, 3.0))[0] / grid[0]
        np.testing.assert_allclose(augmented(key, grid, 0.3, 2.0, 3.0), (grid + shifted[0]) * stretched * scaled)
        assert (stretched >= 1 / 2).all() and (stretched <= 2).all() and stretched[0] != stretched[1]
        assert 1 / 3 <= scaled[0] <= 3 and abs(scaled[0] - scaled[1]) < 1e-12
        found.append([*shifted[0], *np.log(stretched), np.log(scaled[0])])
    assert (np.abs(np.mean(found, axis=0)) < 0.25).all() and (np.std(found, axis=0) > [0.1, 0.1, 0.3, 0.3, 0.4]).all()


def test_only_training_moves_coordinates():
    model = Eva(**{**SMALL, **DINO_3}, rope_rescale_coords=2.0)
    images = np.random.default_rng(0).normal(size=(2, 24, 36, 3))
    variables = model.init(jax.random.key(0), images)
    still = model.apply(variables, images)
    np.testing.assert_array_equal(still, model.clone(rope_rescale_coords=None).apply(variables, images, True))
    moved = model.apply(variables, images, True, rngs={'mask': jax.random.key(1)})
    assert np.abs(moved - still).max() > 1e-7 * np.abs(still).max()
