"""What WWT returns, and where the directions of its loss come from."""

import jax
import numpy as np
import pytest
from flax.errors import InvalidRngError

from parity_tests.bridge import make_pair
from parity_tests.case import all_cases
from vit_flax.models.wwt import WWTFeatureReturn, WWTReturn

CASES = {case.name: case for case in all_cases() if case.stem == 'wwt'}


def test_structure_of_the_result():
    def shapes(name, **kwargs):
        pair = make_pair(CASES[name])
        return jax.eval_shape(lambda: pair.flax.apply(pair.variables, *pair.inputs, **kwargs))

    result = shapes('tokens_two_maps')
    assert isinstance(result, WWTReturn) and result.token_logits.shape == (2, 7)
    features = shapes('tokens_two_maps', return_embeddings=True)
    assert isinstance(features, WWTFeatureReturn)
    assert [x.shape for x in features.slots] == [(2, 5, 20), (2, 3, 20)]
    assert features.tokens.shape == (2, 12, 20)
    assert [x.shape for x in features.masks] == [(2, 2, 2, 12, 5), (2, 2, 2, 12, 3)]

    logits, (first, second, third), fourth, loss = shapes('everything_returned')
    assert isinstance(logits, WWTReturn) and loss.shape == ()
    assert first.shape == (2, 20, 3, 4)
    assert [x.shape for x in (second, third, fourth)] == [(2, 2, 20), (2, 2, 20), (2, 5, 20)]


def test_directions_of_the_loss():
    pair = make_pair(CASES['tokens_and_loss'])

    def loss(**kwargs):
        return np.asarray(pair.flax.apply(pair.variables, *pair.inputs, **kwargs)[-1])

    assert loss() == loss()
    with pytest.raises(InvalidRngError, match='projections'):
        loss(train=True)
    drawn = [loss(train=True, rngs={'projections': key}) for key in jax.random.split(jax.random.key(0))]
    assert drawn[0] != drawn[1]
    np.testing.assert_allclose(drawn, loss(), rtol=0.2)
