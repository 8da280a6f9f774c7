"""The transformers that models take as arguments, on their own: with masks, and scanned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_flax
from parity_tests.bridge import randomise, relative_error
from parity_tests.case import Submodule, build_flax, build_torch, build_upstream
from parity_tests.cases.efficient import encoder, nystromformer
from vit_flax.transformers.nystromformer import iterative_inverse

# the softmax of x-transformers is in float32, but with attn_qk_norm
TRANSFORMERS = {
    'nystromformer': (nystromformer(), 1e-9),
    'encoder': (encoder(residual_attn=True), 1e-5),
    'encoder_qk_norm': (encoder(attn_qk_norm=True), 1e-9),
}
MASK = np.arange(11) < np.array([[11], [6]])


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_with_mask_as_the_package(name: str):
    argument, tolerance = TRANSFORMERS[name]
    witness, upstream = (build(argument).double() for build in (build_torch, build_upstream))
    randomise(witness, np.random.default_rng(0))
    upstream.load_state_dict(witness.state_dict(), strict=True)
    x = np.random.default_rng(1).normal(size=(2, 11, 20))
    want, of_package = (model(torch.from_numpy(x), mask=torch.from_numpy(MASK)) for model in (witness, upstream))
    assert relative_error(want.detach().numpy(), of_package.detach().numpy()) <= tolerance
    got, variables = flax_of(argument, witness, x)
    assert relative_error(got.apply(variables, x, MASK)[MASK], want.detach().numpy()[MASK]) <= 1e-9

    noise = np.where(MASK[..., None], x, 1e3)
    np.testing.assert_allclose(got.apply(variables, noise, MASK)[MASK], got.apply(variables, x, MASK)[MASK], rtol=1e-9)


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_scanned_equals_the_loop(name: str):
    argument, _ = TRANSFORMERS[name]
    witness = build_torch(argument).double()
    randomise(witness, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(2, 11, 20))
    outputs = []
    for scan in (False, True):
        model, variables = flax_of(argument, witness, x, scan=scan, remat=scan)
        outputs.append(model.apply(variables, x))
        state_dict = vit_flax.to_torch(model, variables, x, source='vit_pytorch')
        assert all((state_dict[key] == value.numpy()).all() for key, value in witness.state_dict().items())
    assert relative_error(outputs[1], outputs[0]) <= 1e-12


def flax_of(argument: Submodule, witness: torch.nn.Module, x: np.ndarray, **extra: bool):
    model = build_flax(argument).clone(**extra)
    return model, vit_flax.from_torch(model, witness.state_dict(), x, source='vit_pytorch')


def test_inverse_of_each_map_for_itself():
    """With `scale_each_map` an image's result does not depend on its batch, and the inverse is still one."""
    x = np.random.default_rng(1).normal(size=(2, 12, 20))
    for apart in (True, False):
        model = build_flax(nystromformer(scale_each_map=apart))
        variables = jax.tree.map(lambda leaf: 3 * leaf, jax.jit(model.init)(jax.random.key(0), x))
        difference = relative_error(model.apply(variables, x)[:1], model.apply(variables, x[:1]))
        assert (difference <= 1e-12) == apart
    maps = jax.nn.softmax(4 * jax.random.normal(jax.random.key(0), (3, 5, 5), jnp.float64))
    ones = maps @ iterative_inverse(maps, 40, scale_each=True)
    np.testing.assert_allclose(ones, np.stack([np.eye(5)] * 3), atol=1e-6)
