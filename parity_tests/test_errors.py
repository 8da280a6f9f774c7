"""Mistakes of the caller end in one clear ValueError, at init."""

import jax
import jax.numpy as jnp
import pytest

import vit_flax
from parity_tests.case import Refused


def test_bad_arguments(refused: Refused):
    inputs = [jax.ShapeDtypeStruct(spec.shape, jnp.float32) for spec in refused.inputs]

    def init(*inputs):
        return refused.flax_model().init(jax.random.key(0), *inputs, **refused.call)

    with pytest.raises(ValueError, match=refused.says):
        jax.eval_shape(init, *inputs)


def test_unknown_model():
    with pytest.raises(ValueError, match="no model is called 'simplevit': did you mean 'simple_vit'"):
        vit_flax.create_model('simplevit')
    with pytest.raises(TypeError, match='patchsize'):
        vit_flax.create_model('vit_small_patch16_224', patchsize=8)
