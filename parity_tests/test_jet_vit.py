"""JetViT's choices: the same at run time as when compiled in, drawn in training only."""

import jax
import jax.numpy as jnp
import numpy as np

from parity_tests.bridge import make_pair
from parity_tests.case import all_cases
from vit_flax.models.jet_vit import draw_attention_choices
from vit_flax.wrappers.recorder import Recorder


def test_choices():
    pair = make_pair(next(case for case in all_cases() if case.id == 'jet_vit-chosen'))
    layers = pair.case.kwargs['attn_layers']
    run = jax.jit(lambda **kwargs: pair.flax.apply(pair.variables, *pair.inputs, **kwargs))
    at_run_time = run(attention_choices=jnp.array([1, 1, 0]))
    fixed = pair.flax.apply(pair.variables, *pair.inputs, attention_choices=[1, 1, 0])
    np.testing.assert_allclose(at_run_time, fixed, rtol=1e-9)
    np.testing.assert_allclose(run(), run(attention_choices=jnp.array([0, 0, 0])), rtol=1e-9)

    drawn = np.stack([draw_attention_choices(key, layers) for key in jax.random.split(jax.random.key(0), 20)])
    assert set(map(tuple, drawn)) == {(i, j, 0) for i in (0, 1) for j in (0, 1)}
    noisy = pair.flax.clone(dropout=0.5)
    outputs = [
        noisy.apply(pair.variables, *pair.inputs, train=True, rngs=dict(attention=key, dropout=key))
        for key in jax.random.split(jax.random.key(1))
    ]
    assert np.isfinite(outputs).all() and np.abs(outputs[0] - outputs[1]).max() > 1e-3

    recorder = Recorder(pair.flax)
    logits, maps = jax.jit(lambda choices: recorder.apply(pair.variables, *pair.inputs, attention_choices=choices))(
        jnp.array([1, 1, 0])
    )
    np.testing.assert_allclose(logits, fixed, rtol=1e-9)
    assert sorted(maps) == [
        'transformer/block_0/attention/window',
        'transformer/block_1/attention/full/attention',
        'transformer/block_2/attention/window',
    ]
