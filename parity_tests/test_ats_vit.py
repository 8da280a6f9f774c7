"""Adaptive token sampling in static shapes: the same tokens as upstream's, and places out of use that do not matter."""

from unittest import mock

import jax
import numpy as np
import pytest
import torch

from parity_tests.bridge import make_pair
from parity_tests.case import all_cases
from parity_tests.upstream import upstream_module
from vit_flax.models.ats_vit import draw_token_noise

CASES = {case.name: case for case in all_cases() if case.stem == 'ats_vit'}


@pytest.mark.parametrize('name', ['noise', 'few_tokens_left'])
def test_sampled_ids_as_upstream(name):
    case = CASES[name]
    pair = make_pair(case)
    upstream = case.upstream_model().double()
    upstream.load_state_dict(pair.torch.state_dict())
    module = upstream_module('ats_vit')
    with mock.patch.multiple(module, **case.upstream_patch(module, case.torch_call())):
        _, want = upstream(*pair.torch_inputs(), return_sampled_token_ids=True)
    _, got = pair.flax.apply(pair.variables, *pair.inputs, return_sampled_token_ids=True, **case.call)
    assert got.shape == (2, case.kwargs['max_tokens_per_depth'][-1])
    np.testing.assert_array_equal(got[:, : want.shape[1]], want)
    assert (got[:, want.shape[1] :] == -1).all()


def test_an_image_does_not_depend_on_its_batch():
    pair = make_pair(CASES['fixed_samples'])
    images = np.concatenate([pair.inputs[0], np.random.default_rng(0).normal(size=(6, 24, 36, 3))])
    run = jax.jit(lambda images: pair.flax.apply(pair.variables, images, return_sampled_token_ids=True))
    logits, ids = run(images)
    assert len({(row >= 0).sum() for row in np.asarray(ids)}) > 1, 'all images keep as many tokens: a weak test'
    for image, *want in zip(images, logits, ids, strict=True):
        for mine, theirs in zip(run(image[None]), want, strict=True):
            np.testing.assert_allclose(mine[0], theirs, rtol=1e-9)


def test_noise_is_drawn_in_training_if_there_is_a_key():
    pair = make_pair(CASES['fixed_samples'])

    def run(**kwargs):
        return pair.flax.apply(pair.variables, *pair.inputs, **kwargs)

    keys = jax.random.split(jax.random.key(0))
    drawn, other = (run(train=True, rngs={'tokens': key}) for key in keys)
    assert np.abs(drawn - other).max() > 1e-6
    np.testing.assert_array_equal(run(rngs={'tokens': keys[0]}), run())
    np.testing.assert_array_equal(run(train=True), run())
    noise = draw_token_noise(keys[0], 2, 24, (24, 11, 5))
    assert noise[0] is None and noise[1].shape == (2, 11, 24) and noise[2].shape == (2, 5, 11)
    assert torch.from_numpy(np.array(run(token_noise=noise))).isfinite().all()
