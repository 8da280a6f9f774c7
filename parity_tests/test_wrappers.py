"""Recorder and Extractor: upstream's numbers for ViT, and every attention of every model."""

import inspect
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from parity_tests.bridge import Pair, make_pair, relative_error
from parity_tests.case import Case, all_cases
from parity_tests.specimen import specimen
from parity_tests.upstream import upstream_module
from vit_flax.taps import watch
from vit_flax.wrappers.extractor import Extractor
from vit_flax.wrappers.recorder import Recorder

VIT = next(case for case in all_cases() if case.id == 'vit-cls')


@pytest.fixture(scope='module')
def vit():
    with jax.enable_x64(True):
        pair = make_pair(VIT)
        upstream = upstream_module('vit').ViT(**VIT.kwargs).double()
        upstream.load_state_dict(pair.torch.state_dict())
        return pair, upstream.eval()


def test_recorder_as_upstream(vit):
    pair, upstream = vit
    logits, maps = upstream_module('recorder').Recorder(upstream)(*pair.torch_inputs())
    got_logits, got_maps = Recorder(pair.flax).apply(pair.variables, *pair.inputs)
    assert got_maps.shape == (2, 2, 3, 25, 25)
    assert relative_error(got_maps, maps.numpy()) <= 1e-12
    assert relative_error(got_logits, logits.detach().numpy()) <= 1e-12


@pytest.mark.parametrize(
    'path, torch_name', [('transformer', 'transformer'), ('to_patch_embedding', 'to_patch_embedding')]
)
@pytest.mark.parametrize('save_input', [False, True])
def test_extractor_as_upstream(vit, path, torch_name, save_input):
    pair, upstream = vit
    settings = dict(layer_name=torch_name, layer_save_input=save_input)
    extractor = upstream_module('extractor').Extractor(upstream, **settings)
    logits, want = extractor(*pair.torch_inputs())
    extractor.eject()
    got_logits, got = Extractor(pair.flax, layer_name=path, layer_save_input=save_input).apply(
        pair.variables, *pair.inputs
    )
    assert relative_error(got_logits, logits.detach().numpy()) <= 1e-12
    if save_input:
        (got,), (want,) = got, want
    want = want.moveaxis(1, -1) if want.ndim == 4 else want
    assert relative_error(np.asarray(got).ravel(), want.reshape(-1).numpy()) <= 1e-12


def maps_of(pair: Pair) -> dict[Any, jax.Array]:
    """Attention maps by layer, from one compiled run."""

    def run(variables):
        _, maps = Recorder(pair.flax).apply(variables, *pair.inputs)
        return maps if isinstance(maps, dict) else dict(enumerate(jnp.unstack(maps, axis=1)))

    return jax.jit(run)(pair.variables)


def test_every_attention_of_every_model(representative_case: Case):
    """Rows of a softmax sum to one."""
    pair = specimen(representative_case).pair
    maps = maps_of(pair)
    heads = sum(bool(TAPPING & called_names(module)) for module in calls(representative_case.id)[0])
    assert len(maps) == heads > 0
    for attention in maps.values():
        # windows of an image count as a batch of their own
        assert attention.ndim == 4 and attention.shape[0] % 2 == 0
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-12)


def test_scanned_attention_of_every_model(scannable_representative: Case):
    """The same maps under the same names as of the unrolled trunk."""
    one = specimen(scannable_representative)
    plain, scanned = maps_of(one.pair), maps_of(one.scanned)
    assert scanned.keys() == plain.keys()
    for name, attention in scanned.items():
        assert relative_error(attention, plain[name]) <= 1e-12


TAPPING = {'attend', 'attention_map'}


def called_names(module):
    return set(inspect.unwrap(type(module).__call__).__code__.co_names)


def test_embeddings_of_every_model(representative_case: Case):
    """What the first part of the model gives, and what its head takes, by shape alone."""
    pair = specimen(representative_case).pair
    modules, shown = calls(representative_case.id)
    part = next('/'.join(module.path) for module in modules if len(module.path) == 1)
    _, embeddings = jax.eval_shape(Extractor(pair.flax, layer_name=part).apply, pair.variables, *pair.inputs)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(embeddings)), part
    latents = shown.get('to_latent', ())
    assert len(latents) == pair.flax.taps_latent
    assert all(latent.shape[0] == 2 and latent.ndim in (2, 4) for latent in latents)


@lru_cache(maxsize=1)
def calls(case_id: str) -> tuple[list[nn.Module], dict[str, Any]]:
    """The modules of a case's model, one for each call, and what it shows."""
    pair = specimen(next(case for case in all_cases() if case.id == case_id)).pair
    found = []

    def remember(call):
        if call.method == '__call__':
            found.append(call.module)

    with watch(before=remember):
        _, state = jax.eval_shape(partial(pair.flax.apply, mutable=['intermediates']), pair.variables, *pair.inputs)
    return found, state.get('intermediates', {})


def test_extractor_takes_taps_gradients_and_other_collections(vit):
    pair, _ = vit

    def norm(variables, detach):
        embedding = Extractor(
            pair.flax, layer_name='transformer/block_0/block', return_embeddings_only=True, detach=detach
        ).apply(variables, *pair.inputs)
        return (embedding**2).sum()

    gradient = jax.grad(norm)(pair.variables, detach=False)['params']
    assert np.abs(gradient['transformer']['block_0']['attention']['to_qkv']['kernel']).max() > 0
    assert np.abs(gradient['transformer']['block_1']['attention']['to_qkv']['kernel']).max() == 0
    assert all(not leaf.any() for leaf in jax.tree.leaves(jax.grad(norm)(pair.variables, detach=True)))


def test_recorder_keeps_the_callers_collections():
    case = next(case for case in all_cases() if case.id == 'cvt-train')
    pair = make_pair(case)
    (logits, state), maps = Recorder(pair.flax).apply(pair.variables, *pair.inputs, train=True, mutable=['batch_stats'])
    assert logits.shape == (2, 7) and set(state) == {'batch_stats'} and 'stage_2/transformer/block_1/attention' in maps


def test_unknown_layer(vit):
    pair, _ = vit
    with pytest.raises(
        ValueError, match="'transfomer' is no submodule or tap of the model: did you mean 'transformer'"
    ):
        Extractor(pair.flax, layer_name='transfomer').apply(pair.variables, *pair.inputs)
