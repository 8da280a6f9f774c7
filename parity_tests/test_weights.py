"""Weights from PyTorch and back: nothing lost, nothing guessed, one report of what does not fit."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_flax
from parity_tests.bridge import Pair, example_inputs
from parity_tests.case import Case
from parity_tests.specimen import specimen
from parity_tests.upstream import upstream_module
from vit_flax.models.vit import ViT
from vit_torch_ref.models.vit import ViT as TorchViT

SMALL = dict(image_size=(24, 36), patch_size=(4, 9), num_classes=7, dim=20, depth=2, heads=3, dim_head=6, mlp_dim=28)


def assert_same(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        theirs = value.numpy() if isinstance(value, torch.Tensor) else value
        assert got[name].dtype == theirs.dtype, name
        assert got[name].shape == theirs.shape, name
        assert got[name].tobytes() == np.ascontiguousarray(theirs).tobytes(), name


def test_round_trip_is_bit_exact(case: Case):
    round_trip(specimen(case).pair)


def test_round_trip_of_the_scanned_layout_is_bit_exact(scannable_case: Case):
    round_trip(specimen(scannable_case).scanned)


def round_trip(pair: Pair) -> None:
    """What `from_torch` has made of the reference's weights goes back."""
    back = vit_flax.to_torch(pair.flax, pair.variables, *example_inputs(pair.case), source=pair.flax.torch_source)
    assert_same(back, pair.torch.state_dict())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_survives(dtype: torch.dtype):
    state_dict = {name: value.to(dtype) for name, value in TorchViT(**SMALL).state_dict().items()}
    model = ViT(**SMALL)
    back = vit_flax.to_torch(model, vit_flax.from_torch(model, state_dict, source='vit_pytorch'), source='vit_pytorch')
    for name, value in state_dict.items():
        assert str(back[name].dtype) == str(dtype).removeprefix('torch.')
        np.testing.assert_array_equal(back[name].astype(np.float64), value.double().numpy())


def test_result_does_not_share_memory_with_torch():
    reference = TorchViT(**SMALL)
    variables = vit_flax.from_torch(ViT(**SMALL), reference.state_dict(), source='vit_pytorch')
    before = np.array(variables['params']['pos_embedding'])
    with torch.no_grad():
        reference.pos_embedding.zero_()
    np.testing.assert_array_equal(before, variables['params']['pos_embedding'])


def test_one_report_of_everything_that_does_not_fit():
    state_dict = TorchViT(**SMALL).state_dict()
    state_dict['mlp_heads.weight'] = state_dict.pop('mlp_head.weight')
    state_dict['mlp_head.bias'] = torch.zeros(1000)
    del state_dict['transformer.norm.bias']
    with pytest.raises(ValueError) as caught:
        vit_flax.from_torch(ViT(**SMALL), state_dict, source='vit_pytorch')
    said = str(caught.value)
    assert '4 problems' in said
    assert 'missing: mlp_head.weight (nearest: mlp_heads.weight)' in said
    assert 'unexpected: mlp_heads.weight (nearest: mlp_head.weight)' in said
    assert 'shape of mlp_head.bias: the model has (7,), the state dict (1000,)' in said
    assert 'missing: transformer.norm.bias' in said


def test_source_is_named_never_guessed():
    with pytest.raises(ValueError, match="source='lucidrains' is unknown: use one of 'vit_pytorch'"):
        vit_flax.from_torch(ViT(**SMALL), {}, source='lucidrains')
    with pytest.raises(ValueError, match="source='timm': ViT is a model of source='vit_pytorch'"):
        vit_flax.from_torch(ViT(**SMALL), {}, source='timm')
    with pytest.raises(TypeError):
        vit_flax.from_torch(ViT(**SMALL), {})


def test_variables_of_another_model_are_refused():
    model = ViT(**SMALL)
    variables = vit_flax.from_torch(model, TorchViT(**SMALL).state_dict(), source='vit_pytorch')
    with pytest.raises(ValueError, match=r'mlp_head/kernel: expected .20, 8., got .20, 7.'):
        vit_flax.to_torch(ViT(**{**SMALL, 'num_classes': 8}), variables, source='vit_pytorch')


# What releases of vit-pytorch called and shaped things, as functions of today's state dict.
def with_batch_axis(state_dict):
    """1.3 to 1.15."""
    return {
        name: value[None] if name in ('cls_token', 'pos_embedding') else value for name, value in state_dict.items()
    }


def with_pre_norm(state_dict):
    """1.0 to 1.2."""
    renamed = {}
    for name, value in with_batch_axis(state_dict).items():
        parts = name.split('.')
        if parts[:2] == ['transformer', 'layers']:
            block, branch, rest = parts[2], parts[3], parts[4:]
            if branch == '0' and rest[0] != 'norm':
                rest = ['fn', *rest]
            if branch == '1':
                old = {'0': ['norm'], '1': ['fn', 'net', '0'], '4': ['fn', 'net', '3']}[rest[1]]
                rest = [*old, *rest[2:]]
            name = '.'.join(['transformer', 'layers', block, branch, *rest])
        name = name.replace('transformer.norm.', 'mlp_head.0.').replace('mlp_head.weight', 'mlp_head.1.weight')
        renamed[name.replace('mlp_head.bias', 'mlp_head.1.bias')] = value
    return renamed


@pytest.mark.parametrize('vintage', [with_batch_axis, with_pre_norm])
@pytest.mark.parametrize('scan', [False, True])
def test_older_vit_pytorch_checkpoints(vintage, scan):
    state_dict = TorchViT(**SMALL).state_dict()
    model = ViT(**SMALL, scan=scan)
    want = vit_flax.from_torch(model, state_dict, source='vit_pytorch')
    got = vit_flax.from_torch(model, vintage(state_dict), source='vit_pytorch')
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_older_checkpoints_of_another_mathematics_are_refused():
    old = with_pre_norm(TorchViT(**SMALL).state_dict())
    with pytest.raises(ValueError, match=r"pool='mean' it averages before that norm"):
        vit_flax.from_torch(ViT(**SMALL, pool='mean'), old, source='vit_pytorch')
    linear = {name: value for name, value in old.items() if not name.startswith('to_patch_embedding')}
    linear |= {'to_patch_embedding.1.weight': torch.zeros(20, 108), 'to_patch_embedding.1.bias': torch.zeros(20)}
    with pytest.raises(ValueError, match=r'before 1\.0, whose patches are not normalised'):
        vit_flax.from_torch(ViT(**SMALL), linear, source='vit_pytorch')


def test_upstream_itself_takes_what_we_write():
    model = ViT(**SMALL)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 24, 36, 3), jnp.float32))
    state_dict = vit_flax.to_torch(model, variables, source='vit_pytorch')
    theirs = upstream_module('vit').ViT(**SMALL)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state_dict.items()}, strict=True)
    images = np.random.default_rng(0).normal(size=(2, 24, 36, 3)).astype(np.float32)
    want = theirs.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(model.apply(variables, images), want, atol=1e-5)


def test_product_needs_no_torch():
    """Importing, building, converting and running with torch unimportable."""
    code = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'torch':
            raise ImportError('torch is not here')
sys.meta_path.insert(0, NoTorch())
import numpy as np, jax, vit_flax
model = vit_flax.create_model('vit', image_size=8, patch_size=4, num_classes=3, dim=8, depth=1, heads=1, mlp_dim=8)
variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
state_dict = vit_flax.to_torch(model, variables, source='vit_pytorch')
again = vit_flax.from_torch(model, state_dict, source='vit_pytorch')
assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), variables, again))
"""
    subprocess.run([sys.executable, '-c', code], check=True)
