"""Sixteen bits: nothing is added up in them, and results are as exact as PyTorch's."""

import jax.numpy as jnp
import pytest

from parity_tests.case import Case, first_cases
from parity_tests.objective_case import ObjectiveCase, first_objective_cases
from parity_tests.sixteen_bits import BOUND, measure, narrow_sums
from vit_flax.blocks import attention

# One of each kind of trunk, attention, norm and activation, and of each kind of loss.
MODELS = ('vit', 'cait', 'xcit', 'cvt', 'max_vit', 'normalized_vit', 'looped_vit', 'wwt', 'jet_vit')
OBJECTIVES = ('mae', 'dino', 'lejepa')
ALWAYS = ('vit', 'cait', 'xcit', 'cvt', 'normalized_vit', 'mae')

measured = pytest.mark.parametrize(
    'representative',
    [
        pytest.param(case, marks=() if case.stem in ALWAYS else pytest.mark.exhaustive)
        for case in (*first_cases(), *first_objective_cases())
        if case.stem in (*MODELS, *OBJECTIVES)
    ],
    ids=lambda case: case.stem,
)


def test_models_add_up_in_float32(representative_case: Case):
    assert not narrow_sums(representative_case)


def test_objectives_add_up_in_float32(first_objective_case: ObjectiveCase):
    assert not narrow_sums(first_objective_case)


@measured
def test_bfloat16_is_as_exact_as_torch(representative: Case):
    assert measure(representative, 'bfloat16', half_parameters=True).too_inexact == {}


@pytest.mark.parametrize('stem', ['vit', 'xcit'])
def test_float16_is_as_exact_as_torch(stem: str):
    (case,) = (case for case in first_cases() if case.stem == stem)
    assert measure(case, 'float16').too_inexact == {}


def test_the_measure_sees_rounded_scores(monkeypatch):
    """What was wrong once: scores rounded to 16 bits before the softmax."""
    (case,) = (case for case in first_cases() if case.stem == 'vit')
    monkeypatch.setattr(attention, 'attention_scores', _rounded_scores)
    found = measure(case, 'bfloat16')
    assert max(found.ratios.values()) > BOUND


def _rounded_scores(q, k, scale):
    return jnp.einsum('b e n k, b e m k -> b e n m', q * scale, k)
