"""Runs both sides of a case, measures the differences, and finds where they begin."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import torch

from parity_tests.bridge import Pair, Run, apply_flax, make_pair, relative_error, run_flax, run_torch
from parity_tests.case import Case
from vit_flax.taps import Call, watch


@dataclass(frozen=True)
class Report:
    """Relative errors by name; `stray` are parameters whose use differs from the case's declaration."""

    outputs: dict[str, float]
    gradients: dict[str, float]
    state: dict[str, float]
    stray: tuple[str, ...]

    @property
    def worst(self) -> float:
        return max([*self.outputs.values(), *self.gradients.values(), *self.state.values()])


def compare(case: Case, **flax_extra: Any) -> tuple[Report, Pair]:
    """Measures one case; `flax_extra` are arguments for the Flax model alone."""
    pair = make_pair(case, **flax_extra)
    want, got = run_torch(pair), run_flax(pair)
    return measure(case, got, want), pair


def measure(case: Case, got: Run, want: Run) -> Report:
    if len(got.outputs) != len(want.outputs):
        raise AssertionError(f'{case.id}: {len(got.outputs)} outputs in Flax, {len(want.outputs)} in torch')
    outputs = {}
    for index, (mine, theirs) in enumerate(zip(got.outputs, want.outputs, strict=True)):
        if mine.shape != theirs.shape:
            raise AssertionError(f'{case.id}: output {index} is {mine.shape} in Flax, {theirs.shape} in torch')
        outputs[f'output {index}'] = relative_error(mine, theirs)
    if got.gradients.keys() != want.gradients.keys():
        raise AssertionError(f'{case.id}: gradients of different parameters')
    # A gradient that is zero but for rounding has no scale of its own: it gets a small share of the largest.
    floor = 1e-4 * max(np.abs(grad).max() for grad in want.gradients.values() if grad.size)
    gradients = {name: relative_error(got.gradients[name], grad, floor) for name, grad in want.gradients.items()}
    state = {name: relative_error(got.state[name], value) for name, value in want.state.items()}
    declared = {name for name in want.gradients if any(re.fullmatch(pattern, name) for pattern in case.unused)}
    stray = (declared - set(want.negligible)) | (set(want.unused) - declared)
    return Report(outputs, gradients, state, tuple(sorted(stray)))


def check(case: Case, **flax_extra: Any) -> Report:
    """Raises an AssertionError that names the first module that differs."""
    return judge(case, *compare(case, **flax_extra))


def judge(case: Case, report: Report, pair: Pair) -> Report:
    """The report if it is within the case's bounds, else an AssertionError that names the first module that differs."""
    count = sum(leaf.size for leaf in jax.tree.leaves(pair.variables.get('params', {})))
    if count != case.parameters:
        raise AssertionError(f'{case.id} has {count} parameters, its case says {case.parameters}')
    problems = [
        f'{kind} {name}: {error:.1e}'
        for kind in ('outputs', 'gradients', 'state')
        for name, error in getattr(report, kind).items()
        if not error <= case.tolerance
    ]
    if problems:
        lines = [f'{case.id} differs from torch by more than {case.tolerance:.0e}:', *problems[:8]]
        lines += [f'... and {len(problems) - 8} more'] if len(problems) > 8 else []
        raise AssertionError('\n  '.join([*lines, first_difference(pair)]))
    if report.stray:
        raise AssertionError(f'{case.id}: `unused` and the gradients disagree on {report.stray}')
    return report


def first_difference(pair: Pair) -> str:
    """Names the innermost module whose inputs agree and whose output does not."""
    theirs: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}

    def hook(name):
        def remember(_, inputs, output):
            theirs.setdefault(name, (_arrays(inputs), _arrays(output)))

        return remember

    handles = [module.register_forward_hook(hook(name)) for name, module in pair.torch.named_modules()]
    with torch.no_grad():
        pair.torch(*pair.case.arguments(pair.torch_inputs()), **pair.case.torch_call())
    for handle in handles:
        handle.remove()

    agreed = 'the input'

    def remember(call: Call, output: Any) -> None:
        name = pair.table.modules.get(call.path)
        if call.method == '__call__' and name in theirs and call.path not in seen:
            seen[call.path] = (_arrays(call.args), _arrays(output), name)

    seen: dict[tuple[str, ...], tuple[list[np.ndarray], list[np.ndarray], str]] = {}
    state = sorted({'batch_stats', *pair.variables} - {'params'})
    with watch(after=remember):
        apply_flax(pair, pair.variables, pair.inputs, pair.case.call, state)
    for path, (inputs, outputs, name) in seen.items():
        wanted_inputs, wanted_outputs = theirs[name]
        error_in, error_out = _distance(inputs, wanted_inputs), _distance(outputs, wanted_outputs)
        label = '/'.join(path) or 'the model itself, between its submodules'
        if error_out <= pair.case.tolerance:
            agreed = label
        elif error_in <= pair.case.tolerance:
            return (
                f'first module that differs: {label} (torch: {name or "the model"}), by {error_out:.1e}; '
                f'its input agrees, and so does everything up to {agreed}'
            )
    return f'all modules agree up to {agreed}: the difference is in the backward pass or in the statistics'


def _arrays(values: Any) -> list[np.ndarray]:
    arrays = []
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, torch.Tensor):
            arrays.append(leaf.detach().numpy().copy())
        elif isinstance(leaf, jax.Array | np.ndarray):
            arrays.append(np.asarray(leaf))
    return arrays


def _distance(mine: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Smallest error over the ways in which torch may lay the same numbers out."""
    worst = 0.0
    for ours, wanted in zip(mine, theirs, strict=False):
        if ours.size != wanted.size:
            return float('inf')
        layouts = [wanted] if wanted.ndim < 3 else [wanted, np.moveaxis(wanted, 1, -1)]
        worst = max(worst, min(relative_error(ours.ravel(), layout.ravel()) for layout in layouts))
    return worst
