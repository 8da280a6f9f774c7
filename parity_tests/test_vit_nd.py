"""Parts of the n-d ViTs that upstream offers apart (masks, directions, parameters for Muon); arrays with two names."""

import jax
import numpy as np
import pytest
import torch

import vit_flax
from parity_tests.bridge import make_pair
from parity_tests.case import all_cases
from parity_tests.upstream import upstream_module
from vit_flax.blocks.rotary import golden_gate_frequencies
from vit_flax.blocks.vit_nd_masking import dense_mask, get_nd_causal_mask_fn


@pytest.mark.parametrize('has_cls', [False, True])
@pytest.mark.parametrize(
    'grid, causal_dims',
    [((5,), 0), ((3, 4), (1,)), ((2, 3, 4), (0, 2)), ((2, 3, 2, 2), (0, 1, 3)), ((2, 3), ()), ((2, 3), (0, 1))],
)
def test_masks_as_upstream(grid, causal_dims, has_cls):
    tokens = int(np.prod(grid)) + has_cls
    theirs = upstream_module('vit_nd_masking').get_nd_causal_mask_fn(grid, causal_dims, len(grid), has_cls)
    place = torch.arange(tokens)
    want = theirs(0, 0, place[:, None].expand(-1, tokens), place.expand(tokens, -1)).numpy()
    ours = get_nd_causal_mask_fn(grid, causal_dims, len(grid), has_cls)
    np.testing.assert_array_equal(dense_mask(ours, tokens), want)
    assert ours(0, 0, 2, 3) == want[2, 3]


def test_no_mask():
    assert get_nd_causal_mask_fn((2, 3), None) is None


@pytest.mark.parametrize('axes', [1, 2, 3, 4])
def test_frequencies_as_upstream(axes):
    theirs = upstream_module('vit_nd_rotary').GoldenGateRoPENd(axes, 3, 10, 0.5, 100.0, 0.4).freqs.numpy()
    np.testing.assert_allclose(golden_gate_frequencies(3, 5, axes, 0.5, 100.0, 0.4), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('stem', ['vit_nd_rotary', 'vit_nd_pope'])
def test_parameters_for_muon(stem):
    case = next(case for case in all_cases() if case.id == f'{stem}-three_axes')
    pair = make_pair(case)
    theirs = case.upstream_model()
    meant = {id(parameter) for parameter in theirs.muon_parameters()}
    names = {name for name, parameter in theirs.named_parameters() if id(parameter) in meant}
    ours = pair.flax.muon_parameters(pair.variables['params'])
    paths = {'/'.join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(ours)}
    entries = {'/'.join(entry.path[1:]): entry.names[0] for entry in pair.table.entries if entry.path[0] == 'params'}
    assert {entries[path] for path, chosen in paths.items() if chosen} == names


def test_an_array_with_two_names_must_be_one():
    case = next(case for case in all_cases() if case.id == 'vit_nd_rotary-three_axes')
    state_dict = case.torch_model().state_dict()
    state_dict['transformer.layers.1.0.rotary_emb.freqs'] = 2 * state_dict['rotary_emb.freqs']
    with pytest.raises(ValueError, match=r'layers.1.0.rotary_emb.freqs: other values than rotary_emb.freqs'):
        vit_flax.from_torch(case.flax_model(), state_dict, source='vit_pytorch')
    del state_dict['transformer.layers.1.0.rotary_emb.freqs']
    with pytest.raises(ValueError, match=r'missing: transformer.layers.1.0.rotary_emb.freqs'):
        vit_flax.from_torch(case.flax_model(), state_dict, source='vit_pytorch')
