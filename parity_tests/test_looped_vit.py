"""Losses, targets and the exit of LoopedViT against upstream's."""

import jax
import numpy as np
import pytest
import torch

from parity_tests.bridge import make_pair, relative_error
from parity_tests.case import all_cases
from parity_tests.upstream import upstream_module
from vit_flax.models import looped_vit
from vit_flax.wrappers.recorder import Recorder
from vit_torch_ref.models import looped_vit as witness

rng = np.random.default_rng(0)
LOGITS, LABELS = rng.normal(size=(4, 5, 7)), rng.integers(0, 7, 5)


def upstream():
    return upstream_module('looped_vit')


@pytest.mark.parametrize('weighting', ['final', 'exponential', 'final_mean', (0.5, 0.1, 2.0, 0.3)])
@pytest.mark.parametrize('label_smoothing', [0.0, 0.2])
def test_deep_supervision_loss(weighting, label_smoothing):
    settings = dict(weighting=weighting, label_smoothing=label_smoothing)
    for logits in (LOGITS, LOGITS[0]):
        ours, slope = jax.value_and_grad(looped_vit.deep_supervision_loss)(logits, LABELS, **settings)
        # upstream's weights are in float32
        for module, tolerance in ((upstream(), 1e-6), (witness, 1e-12)):
            tensor = torch.from_numpy(logits).requires_grad_()
            want = module.deep_supervision_loss(tensor, torch.from_numpy(LABELS), **settings)
            want.backward()
            assert relative_error(ours, want.detach().numpy()) <= tolerance
            assert relative_error(slope, tensor.grad.numpy()) <= tolerance


@pytest.mark.parametrize('label_smoothing', [0.0, 0.2])
def test_adaptive_exit_targets(label_smoothing):
    ours = looped_vit.adaptive_exit_targets(LOGITS, LABELS, label_smoothing)
    for module in (upstream(), witness):
        want = module.adaptive_exit_targets(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), label_smoothing)
        assert relative_error(ours, want.numpy()) <= 1e-12
    assert not jax.grad(lambda x: looped_vit.adaptive_exit_targets(x, LABELS).sum())(LOGITS).any()
    with pytest.raises(ValueError, match=r'logits of shape \(1, 5, 7\) must be .* of at least 2 loops'):
        looped_vit.adaptive_exit_targets(LOGITS[:1], LABELS)


def test_exit_in_static_shapes():
    """Ended after 1, 2, 3 or all of 5 loops: upstream's rows, then the last of them again."""
    pair = make_pair(next(case for case in all_cases() if case.id == 'looped_vit-benefits'))
    model = upstream().LoopedViT(**pair.case.kwargs).double()
    model.load_state_dict(pair.torch.state_dict())
    wishes = dict(loop_depth=5, return_all_logits=True, return_exit_benefits=True)

    @jax.jit
    def run(threshold):
        call = dict(wishes, adaptive_exit=True, exit_threshold=threshold)
        return pair.flax.apply(pair.variables, *pair.inputs, **call)

    _, benefits = pair.flax.apply(pair.variables, *pair.inputs, **wishes)
    largest = np.asarray(benefits.max(axis=1))
    lengths = set()
    for threshold in [*(largest + 1e-6), largest.min() - 1]:
        want = model(*pair.torch_inputs(), adaptive_exit=True, exit_threshold=threshold, **wishes)
        got = run(threshold)
        lengths.add(len(want[0]))
        for mine, theirs, rows in zip(got, want, (5, 4), strict=True):
            assert len(mine) == rows
            assert relative_error(mine[: len(theirs)], theirs.detach().numpy()) <= 1e-9
            np.testing.assert_array_equal(mine[len(theirs) :], np.broadcast_to(mine[-1], mine[len(theirs) :].shape))
    assert len(lengths) > 1
    (logits, _), maps = Recorder(pair.flax).apply(
        pair.variables, *pair.inputs, adaptive_exit=True, exit_threshold=largest[0] + 1, **wishes
    )
    np.testing.assert_allclose(logits[-1], logits[0], rtol=1e-12)
    assert len(maps) == 5 + 5 + 4
