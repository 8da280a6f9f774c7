"""The harness catches the classic mistakes of a port, one planted at a time, and names the module."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from einops import rearrange

from parity_tests.case import Case, all_cases
from parity_tests.compare import check
from vit_flax.blocks import attention, patches, torch_like, transformer
from vit_flax.blocks.weight_ops import KEEP
from vit_flax.models import cvt, xcit

pytestmark = pytest.mark.usefixtures('fresh_tables')


def case_named(name: str) -> Case:
    return next(case for case in all_cases() if case.id == name)


def complaint(case: Case) -> str:
    with pytest.raises((AssertionError, ValueError)) as caught:
        check(case)
    return str(caught.value)


def test_tanh_gelu(monkeypatch):
    monkeypatch.setattr(transformer, 'gelu', jax.nn.gelu)
    said = complaint(case_named('vit-cls'))
    assert 'first module that differs: transformer/block_0/feedforward (torch: transformer.layers.0.1)' in said
    assert 'up to transformer/block_0/feedforward/expand' in said


def test_layer_norm_epsilon(monkeypatch):
    monkeypatch.setattr(attention, 'LayerNorm', partial(torch_like.LayerNorm, epsilon=1e-6))
    said = complaint(case_named('simple_vit-rectangular'))
    assert 'first module that differs: transformer/block_0/attention/norm (' in said


def test_swapped_axes_of_a_square_weight(monkeypatch):
    rows = {**attention.Attention.torch_names, 'to_out/kernel': ('to_out.0.weight', KEEP)}
    monkeypatch.setattr(attention.Attention, 'torch_names', rows)
    square = case_named('vit-cls')
    square = replace(square, kwargs={**square.kwargs, 'dim': 18}, parameters=7_731)
    said = complaint(square)
    assert (
        'first module that differs: transformer/block_0/attention/to_out (torch: transformer.layers.0.0.to_out.0)'
        in said
    )


def test_forgotten_scale(monkeypatch):
    def unscaled(*args, scale, **kwargs):
        return attention.attend(*args, scale=1.0, **kwargs)

    monkeypatch.setattr(cvt, 'attend', unscaled)
    said = complaint(case_named('cvt-eval'))
    assert 'first module that differs: stage_0/transformer/block_0/attention (torch: layers.0.2.layers.0.0)' in said


def test_height_and_width_exchanged(monkeypatch):
    def patchify(images, patch_size):
        p, q = patch_size
        return rearrange(images, 'b (h p) (w q) c -> b h w (q p c)', p=p, q=q)

    monkeypatch.setattr(patches, 'patchify', patchify)
    said = complaint(case_named('vit-cls'))
    assert 'first module that differs: to_patch_embedding (torch: to_patch_embedding)' in said


def test_unmapped_bias(monkeypatch):
    class NoBias(torch_like.Dense):
        use_bias: bool = False

    monkeypatch.setattr(transformer, 'Dense', NoBias)
    said = complaint(case_named('vit-cls'))
    assert 'unexpected: transformer.layers.0.1.net.1.bias' in said


def test_unmapped_module(monkeypatch):
    monkeypatch.setattr(transformer.FeedForward, 'torch_names', {'norm': 'net.0', 'expand': 'net.1'})
    said = complaint(case_named('vit-cls'))
    assert 'missing: transformer.layers.0.1.contract.bias' in said
    assert 'unexpected: transformer.layers.0.1.net.4.bias' in said


def test_biased_running_variance(monkeypatch):
    def training_statistics(self, x, train=False, update=True):
        before = {name: self.get_variable('batch_stats', name) for name in ('mean', 'var', 'count')}
        out = original(self, x, train, update)
        if train and before['var'] is not None:
            biased = 0.9 * before['var'] + 0.1 * x.var(tuple(range(x.ndim - 1)))
            self.put_variable('batch_stats', 'var', biased)
        return out

    original = torch_like.BatchNorm.__call__
    monkeypatch.setattr(torch_like.BatchNorm, '__call__', training_statistics)
    said = complaint(case_named('cvt-train'))
    assert 'state batch_stats/stage_0/transformer/block_0/attention/to_q/norm/var' in said


def test_gradient_cut_off(monkeypatch):
    """Equal outputs, wrong gradients: only the comparison of gradients sees it."""
    original = xcit.LayerScale.__call__
    monkeypatch.setattr(
        xcit.LayerScale, '__call__', lambda self, x, layer: original(self, jax.lax.stop_gradient(x), layer)
    )
    said = complaint(case_named('xcit-eval'))
    assert 'gradients ' in said and 'outputs ' not in said
    assert 'all modules agree' in said


def test_wrong_order_of_blocks(monkeypatch):
    names = {'block_{i}': 'layers.{i}', 'block_0': 'layers.1', 'block_1': 'layers.0'}
    monkeypatch.setattr(transformer.Transformer, 'torch_names', dict(reversed(names.items())))
    said = complaint(case_named('vit-cls'))
    assert 'vit-cls differs from torch' in said


def test_values_left_out(monkeypatch):
    original = attention.attend
    monkeypatch.setattr(
        attention, 'attend', lambda module, q, k, v, **options: original(module, q, k, jnp.zeros_like(v), **options)
    )
    assert 'outputs output 0' in complaint(case_named('vit-cls'))


def test_a_parameter_declared_unused_that_is_used():
    said = complaint(replace(case_named('vit-cls'), unused=('mlp_head/bias',)))
    assert said == "vit-cls: `unused` and the gradients disagree on ('mlp_head/bias',)"


def test_a_parameter_that_no_gradient_reaches_must_be_declared():
    case = next(case for case in all_cases() if case.unused)
    said = complaint(replace(case, unused=()))
    assert said.startswith(f'{case.id}: `unused` and the gradients disagree on (')


def test_looser_tolerance_needs_a_reason():
    case = case_named('vit-cls')
    with pytest.raises(ValueError, match='needs a reason'):
        replace(case, tolerance=1e-6)
