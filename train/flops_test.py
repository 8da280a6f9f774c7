"""The count of FLOPs against XLA's cost analysis, and against itself where XLA counts a loop once."""

import dataclasses
import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from train.cli import parse
from train.flops import model_flops, peak_flops
from train.setup import set_up
from vit_flax.blocks.backend import compiling_for
from vit_flax.blocks.kernels import query_blocks
from vit_flax.blocks.module import example_inputs
from vit_flax.flops import count, flops
from vit_flax.registry import model_info, stems

FEW = ('cct', 'vit')
RNGS = ('params', 'dropout', 'drop_path', 'mask', 'tokens')


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def by_xla(function, *args):
    costs = jax.jit(function).lower(*args).cost_analysis()
    assert costs is not None
    return costs['flops']


@pytest.mark.parametrize(
    'function, args',
    [
        (lambda x, y: x @ y, (array(3, 5), array(5, 7))),
        (lambda x, y: jnp.einsum('b n e k, b m e k -> b e n m', x, y), (array(2, 3, 4, 5), array(2, 7, 4, 5))),
        (
            lambda x, y: lax.conv_general_dilated(
                x, y, (2, 1), ((1, 2), (0, 3)), rhs_dilation=(1, 2), feature_group_count=2,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            ),
            (array(2, 8, 9, 4), array(3, 3, 2, 6)),
        ),
        (
            lambda x, y: lax.conv_transpose(x, y, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')),
            (array(2, 5, 6, 4), array(3, 3, 4, 6)),
        ),
        (
            jax.value_and_grad(lambda x, y: lax.conv(x, y, (2, 2), 'SAME').sum(), argnums=(0, 1)),
            (array(2, 4, 9, 9), array(6, 4, 3, 3)),
        ),
    ],
    ids=['matrices', 'attention', 'convolution', 'transposed convolution', 'gradient'],
)  # fmt: skip
def test_products_and_convolutions_count_as_in_xla(function, args):
    counted = flops(function, *args)
    assert by_xla(function, *args) == pytest.approx(counted, rel=0.02) and counted > 100


def test_loops_branches_and_what_is_computed_twice():
    x, kernels = array(4, 8), array(3, 8, 8)
    one = 2 * 4 * 8 * 8

    def layer(x, kernel):
        return jnp.sin(x @ kernel), None

    def looped(x, kernels, layer=layer):
        return lax.scan(layer, x, kernels)[0].sum()

    assert flops(looped, x, kernels) == 3 * one
    assert flops(jax.grad(looped, argnums=(0, 1)), x, kernels) == 3 * 3 * one
    again = partial(looped, layer=jax.checkpoint(layer))
    assert flops(jax.grad(again, argnums=(0, 1)), x, kernels) == 3 * 4 * one
    branches = [lambda x, k: x @ k[0], lambda x, k: x @ k[0] @ k[1], lambda x, k: x]
    assert flops(lambda x, k: lax.switch(x[0, 0].astype(int), branches, x, k), x, kernels) == 2 * one
    assert flops(lambda x, k: jax.jit(jax.vmap(lambda row: row @ k[0]))(x), x, kernels) == one


def counted(stem, **kwargs):
    """Of a forward pass: by us, and a function that asks XLA."""
    info = model_info(stem)
    model = info.build(**{**info.paper_size, **kwargs})
    inputs = example_inputs(model)
    variables = jax.eval_shape(model.init, {name: jax.random.key(0) for name in RNGS}, *inputs)

    def forward(variables, *inputs):
        # elsewhere a depthwise convolution is a sum of products of pixels
        with compiling_for('tpu'):
            return model.apply(variables, *inputs)

    return flops(forward, variables, *inputs), lambda: by_xla(forward, variables, *inputs)


# Models of which the last block computes something that no output depends on.
DEAD = 'jumbo_vit', 'wwt'


@pytest.mark.parametrize(
    'stem', [pytest.param(stem, marks=() if stem in FEW else pytest.mark.exhaustive) for stem in stems()]
)
def test_of_models(stem, monkeypatch):
    # XLA counts the body of a loop once, and long inputs attend in one
    monkeypatch.setattr(query_blocks, 'LONG', np.inf)
    ours, theirs = counted(stem)
    # XLA counts what is element-wise, too: norms, softmax, activations. Of local_vit it counts 0.8 % less than we do,
    # which was not traced to an operation.
    assert 0.9 * theirs() < ours <= theirs() * (1.01 if stem == 'local_vit' else 1)
    if 'scan' in inspect.signature(model_info(stem).build).parameters:
        # scanned, the last block computes what nothing reads, too
        assert ours <= counted(stem, scan=True)[0] <= (1.1 if stem in DEAD else 1) * ours


def test_the_peak_is_told_of_known_chips_alone():
    mesh = jax.make_mesh((8,), ('data',))
    assert peak_flops(mesh, 'bfloat16') is None
    device = SimpleNamespace(device_kind='TPU v5 lite')
    known: Any = SimpleNamespace(devices=np.full((2, 4), device), size=8)
    assert peak_flops(known, 'bfloat16') == 8 * 197e12


def test_what_remat_computes_twice_is_not_what_the_model_needs():
    config = parse('digits', ['--model.scan', '--optim.accumulate=2'])[0]
    twice = dataclasses.replace(config.model, args={**config.model.args, 'remat': True})
    setup = set_up(dataclasses.replace(config, model=twice))
    done = count(setup.train_step.trace(setup.state, setup.batch).jaxpr.jaxpr)
    assert model_flops(dataclasses.replace(config, model=twice)) == model_flops(config) < done
