"""Streams: a few frames at a time, with a cache, give what the whole video gives at once: what upstream gives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_flax
from parity_tests.bridge import randomise, relative_error
from parity_tests.upstream import upstream_module
from vit_flax.models.vivit_with_moss import MOSS, Transformer

PARTS = (0, 1, 3, 4, 7)
MOSS_SIZE = dict(dim=13, local_time=5, local_height=3, local_width=1, hidden_dim=10, orders=2, causal=True)
TRUNK_SIZE = dict(dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28, causal=True)


def both(name, flax_class, size, x):
    """Upstream's module, ours with its weights, and ours applied."""
    theirs = getattr(upstream_module('vivit_with_moss'), name)(**size).double()
    randomise(theirs, np.random.default_rng(0))
    model = flax_class(**size)
    variables = vit_flax.from_torch(model, theirs.state_dict(), x, source='vit_pytorch')

    @jax.jit
    def run(x, cache=None):
        return model.apply(variables, x, cache=cache, return_cache=True)

    return theirs, run


def stream(run, x):
    """The outputs and the last cache."""
    cache, outputs = None, []
    for start, end in itertools.pairwise(PARTS):
        out, cache = run(x[:, start:end], cache)
        outputs.append(np.asarray(out))
    return np.concatenate(outputs, axis=1), cache


def test_moss():
    x = np.random.default_rng(1).normal(size=(2, 7, 4, 3, 13))
    theirs, run = both('MOSS', MOSS, MOSS_SIZE, x)
    want, want_cache = theirs(torch.from_numpy(x), return_cache=True)
    whole, cache = run(x)
    streamed, last = stream(run, x)
    assert relative_error(whole, want.detach().numpy()) <= 1e-12
    assert relative_error(streamed, whole) <= 1e-12
    for mine, streamed_too, wanted in zip(cache, last, want_cache, strict=True):
        assert relative_error(mine, np.moveaxis(wanted.detach().numpy(), 1, -1)) <= 1e-12
        assert relative_error(streamed_too, mine) <= 1e-12


def test_a_stream_of_no_memory():
    x = np.random.default_rng(1).normal(size=(2, 7, 4, 3, 13))
    _, run = both('MOSS', MOSS, {**MOSS_SIZE, 'local_time': 1}, x)
    assert relative_error(stream(run, x)[0], run(x)[0]) <= 1e-12


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('use_flash_attn', [False, True])
def test_attention_across_time(use_flash_attn, scan):
    size = {**TRUNK_SIZE, 'use_flash_attn': use_flash_attn}
    x = np.random.default_rng(1).normal(size=(2, 7, 20))
    theirs, run = both('Transformer', lambda **size: Transformer(**size, scan=scan), size, x)
    want, want_cache = theirs(torch.from_numpy(x), return_cache=True)
    whole, cache = run(x)
    streamed, last = stream(run, x)
    assert relative_error(whole, want.detach().numpy()) <= 1e-12
    assert relative_error(streamed, whole) <= 1e-12
    for mine, streamed_too, wanted in zip(*map(jax.tree.leaves, (cache, last, want_cache)), strict=True):
        assert relative_error(mine, wanted.detach().numpy()) <= 1e-12
        assert relative_error(streamed_too, mine) <= 1e-12


def test_causal_attention_takes_no_mask():
    model, x = Transformer(**TRUNK_SIZE), jnp.zeros((1, 7, 20))
    with pytest.raises(ValueError, match='causal attention does not go with a mask'):
        model.init(jax.random.key(0), x, mask=jnp.ones((1, 7), bool))
