"""The PyTorch reference is vit-pytorch: a strict load of its state dict, equal outputs, gradients and statistics."""

import inspect
from contextlib import nullcontext
from importlib.metadata import version
from unittest import mock

import jax
import numpy as np
import pytest
import torch

from parity_tests.bridge import channels_second, draw_inputs, randomise, relative_error, rng_of
from parity_tests.case import Case
from parity_tests.upstream import VERSION, upstream_module


def test_upstream_is_the_pinned_release():
    assert version('vit-pytorch') == VERSION


def run(model: torch.nn.Module, case: Case, call: dict) -> dict[str, np.ndarray]:
    """Everything the model computes, by name."""
    arrays = (channels_second(array, spec.layout) for array, spec in zip(draw_inputs(case), case.inputs, strict=True))
    inputs = [torch.from_numpy(array).requires_grad_() for array in arrays]
    result = model(*case.arguments(inputs), **call)
    outputs = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, torch.Tensor)]
    rng = rng_of(case, 'upstream')
    loss = sum((output * torch.from_numpy(rng.normal(size=tuple(output.shape)))).sum() for output in outputs)
    loss.backward()
    found = {f'output {i}': output for i, output in enumerate(outputs)}
    found |= {f'gradient of input {i}': tensor.grad for i, tensor in enumerate(inputs) if tensor.grad is not None}
    found |= {f'gradient of {name}': p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {name: buffer for name, buffer in model.named_buffers() if name in model.state_dict()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def test_witness_equals_upstream(case: Case):
    """Or upstream fails as the case says, which then rests on our own reference: docs/models.md counts these apart."""
    if case.upstream_fails:
        with pytest.raises(case.upstream_fails):
            run(case.upstream_model().double(), case, case.torch_call())
    else:
        compare_with_upstream(case)


def compare_with_upstream(case: Case) -> None:
    module = upstream_module(case.stem)
    patches = case.upstream_patch(module, case.torch_call()) if case.upstream_patch else {}
    witness = case.torch_model().double()
    randomise(witness, rng_of(case, 'weights'))
    witness.train(case.train)
    with mock.patch.multiple(module, **patches) if patches else nullcontext():
        upstream = case.upstream_model().double()
        # also refuses a name or a shape that differs, in either direction
        upstream.load_state_dict(witness.state_dict(), strict=True)
        upstream.train(case.train)
        # a draw that upstream takes no argument for is patched into it
        takes = inspect.signature(upstream.forward).parameters
        want = run(upstream, case, {name: value for name, value in case.torch_call().items() if name in takes})
    got = run(witness, case, case.torch_call())
    assert got.keys() == want.keys()
    # as in compare.measure: a gradient that is zero but for rounding has no scale of its own
    largest = max(np.abs(array).max() for name, array in want.items() if name.startswith('gradient') and array.size)
    floors = {name: 1e-4 * largest if name.startswith('gradient') else 1e-6 for name in want}
    errors = {name: relative_error(got[name], want[name], floors[name]) for name in want}
    worst = max(errors, key=errors.get)
    assert errors[worst] <= case.upstream_tolerance, f'{worst} differs from upstream by {errors[worst]:.1e}'
