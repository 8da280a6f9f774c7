"""Which models the objectives of masked images can train, and that what these offer is what the models do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from parity_tests.case import Case, first_cases
from vit_flax.objectives.encoder import check_encoder
from vit_flax.objectives.mae import MAE
from vit_flax.objectives.simmim import SimMIM

# Both take these, as the first case of their file has them.
TAKEN = {
    'attn_residual_with_dca_simple_vit',
    'cait',
    'deepvit',
    'distill',
    'learnable_memory_vit',
    'mp3',
    'parallel_vit',
    'simple_flash_attn_vit',
    'simple_flash_attn_vit_3d',
    'simple_uvit',
    'simple_vit',
    'simple_vit_1d',
    'simple_vit_3d',
    'simple_vit_attn_residual',
    'simple_vit_orthog_residual_update',
    'simple_vit_with_hyper_connections',
    'simple_vit_with_patch_dropout',
    'simple_vit_with_qk_norm',
    'simple_vit_with_register_tokens',
    'simple_vit_with_sparse_gating',
    'simple_vit_with_value_residual',
    'vit',
    'vit_1d',
    'vit_3d',
    'vit_detpool',
    'vit_nd',
    'vit_with_decorr',
    'vit_with_keel_post_ln',
    'vit_with_patch_dropout',
}
# These read the places of their tokens from their order: they can be given learned tokens, but not fewer.
ONLY_SIMMIM = {'jet_vit', 'local_vit', 'vit_5'}


def offers(model: nn.Module) -> bool:
    try:
        check_encoder(model)
    except ValueError:
        return False
    return True


def trains(objective: nn.Module) -> bool:
    """Whether it can be traced; whatever else it ends in but a ValueError is a mistake of ours."""
    try:
        jax.eval_shape(objective.init, jax.random.key(0), objective.example_input())
    except ValueError:
        return False
    return True


def test_the_models_that_are_taken(first_case: Case):
    model = first_case.flax_model()
    if not offers(model):
        with pytest.raises(ValueError, match='cannot be trained on its patches'):
            MAE(encoder=model, decoder_dim=16).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        taken = simmim = False
    else:
        taken = trains(MAE(encoder=model, decoder_dim=16, decoder_heads=2))
        simmim = any(trains(SimMIM(encoder=model, class_token=with_class)) for with_class in (False, True))
    assert taken == (first_case.stem in TAKEN)
    assert simmim == (first_case.stem in TAKEN | ONLY_SIMMIM)


def test_the_lists_name_models():
    assert {case.stem for case in first_cases()} >= TAKEN | ONLY_SIMMIM


def test_what_is_offered_is_what_is_embedded(first_case: Case):
    """`embed` is the prefix, and the tokens of the patches plus their positions."""
    model = first_case.flax_model()
    if first_case.stem not in TAKEN | ONLY_SIMMIM:
        pytest.skip('the objectives of masked images do not take it')
    rng = np.random.default_rng(0)
    example = model.example_input()
    images = rng.normal(size=(2, *example.shape[1:]))
    shapes = jax.eval_shape(model.init, jax.random.key(0), example)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)

    def both(module, images):
        patches = module.patchify(images)
        np.testing.assert_array_equal(module.unpatchify(patches), images)
        tokens = module.embed_tokens(patches) + module.patch_positions(module.grid)
        prefix = jnp.broadcast_to(module.prefix_tokens(), (2, *module.prefix_tokens().shape))
        return module.embed(images), jnp.concatenate([prefix.astype(tokens.dtype), tokens], axis=1)

    want, got = nn.apply(both, model)(variables, images)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
