"""Which token stands for which patch."""

import numpy as np
import pytest

from train.grids import on_grid, token_grid
from vit_flax import create_model
from vit_flax.blocks.grids import TokenGrid

SMALL = dict(num_classes=3, dim=16, depth=1, heads=2, mlp_dim=16)


@pytest.mark.parametrize(
    'name, tokens, expected',
    [
        ('vit', 7, TokenGrid((2, 3), prefix=1)),
        ('vit', 6, None),
        ('simple_vit', 6, TokenGrid((2, 3))),
        ('simple_vit_with_register_tokens', 10, TokenGrid((2, 3), suffix=4)),
        ('simple_vit_with_sparse_gating', 10, TokenGrid((2, 3), prefix=4)),
    ],
)
def test_the_model_declares_the_grid(name, tokens, expected):
    model = create_model(name, image_size=(8, 12), patch_size=4, **SMALL)
    assert token_grid(tokens, (8, 12), model) == expected


def test_attention_of_the_class_token_or_of_all_patches():
    attention = np.random.default_rng(0).random((7, 7))
    with_class_token, with_register = TokenGrid((2, 3), prefix=1), TokenGrid((2, 3), suffix=1)
    np.testing.assert_array_equal(on_grid(attention, with_class_token), attention[0, 1:].reshape(2, 3))
    np.testing.assert_array_equal(on_grid(attention[2:3], with_class_token), attention[2, 1:].reshape(2, 3))
    np.testing.assert_allclose(on_grid(attention, with_register), attention[:6].mean(0)[:6].reshape(2, 3))
