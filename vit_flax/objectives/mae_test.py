from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vit_flax.models import simple_vit, vit, vit_3d, vit_with_patch_dropout
from vit_flax.objectives.encoder import encoder_variables
from vit_flax.objectives.mae import MAE, draw_mask

SMALL: Any = dict(
    image_size=(8, 12), patch_size=(2, 3), num_classes=5, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=24
)
DECODER: Any = dict(decoder_dim=12, decoder_heads=2, decoder_dim_head=6)
IMAGES: Any = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
KEY = jax.random.key(0)
VIDEO: Any = dict(image_size=6, image_patch_size=3, frames=4, frame_patch_size=2)
VIDEO_SMALL: Any = {**VIDEO, 'num_classes': 5, 'dim': 16, 'depth': 1, 'heads': 2, 'dim_head': 8, 'mlp_dim': 24}


@pytest.fixture(scope='module')
def mae():
    return MAE(encoder=vit.ViT(**SMALL), **DECODER)


@pytest.fixture(scope='module')
def variables(mae):
    return jax.jit(mae.init)(KEY, IMAGES)


def test_draws_are_arguments_or_an_rng(mae, variables):
    run = jax.jit(mae.apply)
    draws = draw_mask(KEY, 2, 16)
    assert draws['masked'].shape == (2, 12) and draws['visible'].shape == (2, 4)
    given = run(variables, IMAGES, **draws)
    np.testing.assert_array_equal(given, run(variables, IMAGES, **mae.draw(KEY, IMAGES)))
    drawn = [run(variables, IMAGES, rngs={'mask': jax.random.key(seed)}) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_order_of_the_draw_does_not_matter(mae, variables):
    draws = draw_mask(KEY, 2, 16)
    turned = {name: indices[:, ::-1] for name, indices in draws.items()}
    want, got = (mae.apply(variables, IMAGES, **one) for one in (draws, turned))
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize('norm_pixels', [False, True])
def test_reconstruction_shows_what_was_visible_and_what_was_guessed(variables, norm_pixels):
    mae: Any = MAE(encoder=vit.ViT(**SMALL), **DECODER, norm_pixels=norm_pixels)
    draws = draw_mask(KEY, 2, 16)
    picture = mae.apply(variables, IMAGES, **draws, method='reconstruct')
    assert picture.shape == IMAGES.shape
    encoder = mae.encoder
    patches, originals = encoder.grid.patchify(picture), encoder.grid.patchify(jnp.asarray(IMAGES))
    rows = np.arange(2)[:, None]
    np.testing.assert_array_equal(patches[rows, draws['visible']], originals[rows, draws['visible']])
    guessed, hidden = patches[rows, draws['masked']], originals[rows, draws['masked']]
    error = guessed - hidden
    if norm_pixels:
        error = error / np.sqrt(hidden.var(axis=-1, keepdims=True, ddof=1) + 1e-6)
    np.testing.assert_allclose(jnp.square(error).mean(), mae.apply(variables, IMAGES, **draws), rtol=1e-5)


@pytest.mark.parametrize('encoder', [vit.ViT(**SMALL), simple_vit.SimpleViT(**SMALL), vit_3d.ViT(**VIDEO_SMALL)])
def test_paper(encoder):
    mae: Any = MAE.paper(encoder, decoder_depth=1)
    assert mae.decoder_dim == 512 and mae.norm_pixels and mae.decoder_heads == 16
    images = jnp.zeros((2, *encoder.example_input().shape[1:]))
    loss, variables = jax.eval_shape(lambda key: mae.init_with_output(key, images), KEY)
    assert loss.shape == () and 'decoder_pos_emb' not in variables['params']


def test_a_class_token_without_a_position_has_one_in_the_decoder():
    encoder = vit_with_patch_dropout.ViT(**SMALL)
    for class_token, rows in ((False, 16), (True, 17)):
        mae: Any = MAE(encoder=encoder, **DECODER, class_token=class_token)
        assert jax.eval_shape(mae.init, KEY, IMAGES)['params']['decoder_pos_emb'].shape == (rows, 12)


def test_tubes(mae):
    tubes = MAE(encoder=vit_3d.ViT(**VIDEO_SMALL), **DECODER, masking='tube', masking_ratio=0.5)
    masked = tubes.draw(KEY, jnp.zeros((2, 4, 6, 6, 3)))['masked'].reshape(2, 2, 2)
    np.testing.assert_array_equal(masked[:, 1], masked[:, 0] + 4)


def test_training_lowers_the_loss_and_leaves_an_encoder(mae, variables):
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(variables, state, key):
        loss, slopes = jax.value_and_grad(lambda v: mae.apply(v, IMAGES, train=True, rngs={'mask': key}))(variables)
        updates, state = optimizer.update(slopes, state)
        return optax.apply_updates(variables, updates), state, loss

    state, losses = optimizer.init(variables), []
    for key in jax.random.split(KEY, 80):
        variables, state, loss = step(variables, state, key)
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert mae.encoder.apply(encoder_variables(variables), IMAGES).shape == (2, 5)
