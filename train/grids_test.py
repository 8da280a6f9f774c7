"""Which token stands where."""

import numpy as np
import pytest

from train.grids import TokenGrid, token_grid
from vit_flax import create_model

SMALL = dict(num_classes=3, dim=16, depth=1, heads=2, mlp_dim=16)


@pytest.mark.parametrize(
    'name, tokens, expected',
    [
        ('vit', 7, TokenGrid(1, 2, 3)),
        ('vit', 6, TokenGrid(0, 2, 3)),
        ('simple_vit', 6, TokenGrid(0, 2, 3)),
        ('simple_vit_with_register_tokens', 10, TokenGrid(0, 2, 3)),
        ('simple_vit_with_sparse_gating', 10, TokenGrid(4, 2, 3)),
    ],
)
def test_patches_say_the_grid(name, tokens, expected):
    model = create_model(name, image_size=(8, 12), patch_size=4, **SMALL)
    assert token_grid(tokens, (8, 12), model) == expected


@pytest.mark.parametrize(
    'tokens, size, expected',
    [
        (49, (28, 28), TokenGrid(0, 7, 7)),
        (50, (28, 28), TokenGrid(1, 7, 7)),
        (24, (32, 48), TokenGrid(0, 4, 6)),
        (55, (28, 28), None),
        (0, (28, 28), None),
    ],
)
def test_other_tokens_have_the_proportions_of_the_image(tokens, size, expected):
    assert token_grid(tokens, size, object()) == expected


def test_attention_asked_by_the_class_token_or_by_all_patches():
    attention = np.random.default_rng(0).random((7, 7))
    np.testing.assert_array_equal(TokenGrid(1, 2, 3).of(attention), attention[0, 1:].reshape(2, 3))
    np.testing.assert_array_equal(TokenGrid(1, 2, 3).of(attention[2:3]), attention[2, 1:].reshape(2, 3))
    np.testing.assert_allclose(TokenGrid(0, 2, 3).of(attention), attention[:6].mean(0)[:6].reshape(2, 3))
