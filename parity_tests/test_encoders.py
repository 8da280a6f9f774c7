"""Which models the objectives of masked images can train, and that what these offer is what the models do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from parity_tests.case import Case
from vit_flax.objectives.mae import MAE
from vit_flax.objectives.simmim import SimMIM


def trains(objective: nn.Module) -> bool:
    """Whether it can be traced; whatever else it ends in but a ValueError is a mistake of ours."""
    try:
        jax.eval_shape(objective.init, jax.random.key(0), objective.example_input())
    except ValueError:
        return False
    return True


def test_models_train_as_they_declare(representative_case: Case):
    """MAE drops tokens, SimMIM only replaces them."""
    model = representative_case.flax_model()
    if not model.can_embed_patches:
        with pytest.raises(ValueError, match='cannot be trained on its patches'):
            MAE(encoder=model, decoder_dim=16).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        taken = simmim = False
    else:
        taken = trains(MAE(encoder=model, decoder_dim=16, decoder_heads=2))
        simmim = any(trains(SimMIM(encoder=model, class_token=with_class)) for with_class in (False, True))
    assert (taken, simmim) == (model.can_drop_tokens, model.can_embed_patches)


def test_what_is_offered_is_what_is_embedded(representative_case: Case):
    """`embed` is the prefix, and the tokens of the patches plus their positions."""
    model = representative_case.flax_model()
    if not model.can_embed_patches:
        pytest.skip('it does not embed patches one by one')
    rng = np.random.default_rng(0)
    example = model.example_input()
    images = rng.normal(size=(2, *example.shape[1:]))
    shapes = jax.eval_shape(model.init, jax.random.key(0), example)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)

    def both(module, images):
        patches = module.grid.patchify(images)
        np.testing.assert_array_equal(module.grid.unpatchify(patches), images)
        tokens = module.embed_tokens(patches) + module.patch_positions(module.grid.shape)
        prefix = jnp.broadcast_to(module.prefix_tokens(), (2, *module.prefix_tokens().shape))
        return module.embed(images), jnp.concatenate([prefix.astype(tokens.dtype), tokens], axis=1)

    want, got = nn.apply(both, model)(variables, images)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
