"""Doubles, and the tests of each model: the flags and devices are those of the conftest.py above."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import jax
import pytest
import torch
from _pytest.mark import ParameterSet

from conftest import subject
from vit_flax.weights import convert, table

_build_table = table.build_table
_kept_table = lru_cache(maxsize=32)(_build_table)


def build_table(model: Any, *example_inputs: Any, **kwargs: Any) -> table.Table:
    """The table of a model is traced once for all tests that come one after the other and need it."""
    try:
        return _kept_table(model, *example_inputs, **kwargs)
    except TypeError:  # arrays among the arguments
        return _build_table(model, *example_inputs, **kwargs)


# before others import it
convert.build_table = table.build_table = build_table

from benchmarks.arguments import constructors  # noqa: E402
from parity_tests import specimen  # noqa: E402
from parity_tests.case import (  # noqa: E402
    all_cases,
    all_refusals,
    batch_norm_cases,
    first_cases,
    others_exhaustive,
    scannable_cases,
)
from parity_tests.objective_case import (  # noqa: E402
    ObjectiveCase,
    all_objective_cases,
    all_objective_refusals,
    encoder_cases,
    first_objective_cases,
)

torch.set_num_threads(1)


@pytest.fixture
def fresh_tables():
    """For tests that change the names of a class: tables are neither taken from before nor kept."""
    _kept_table.cache_clear()
    yield
    _kept_table.cache_clear()


@pytest.fixture(autouse=True)
def float64():
    """Doubles for every test of this folder."""
    with jax.enable_x64(True):
        yield


# Convolutional networks on views of two sizes, which take ten seconds each to compile.
HEAVY = 'es_vit-paper', 'dino-paper_map'


def light_always(cases: Iterable[ObjectiveCase]) -> list[ParameterSet]:
    """The cases, of which `HEAVY` run more rarely."""
    return [pytest.param(case, marks=pytest.mark.exhaustive if case.id in HEAVY else ()) for case in cases]


def firsts_always(cases: Iterable[ObjectiveCase]) -> list[ParameterSet]:
    """The cases, of which the first of each objective always run."""
    firsts = {case.stem: case for case in reversed([*cases])}.values()
    return [pytest.param(case, marks=() if case in firsts else pytest.mark.exhaustive) for case in cases]


PER_MODEL = {
    'case': lambda: (all_cases(), lambda case: case.id),
    'first_case': lambda: (first_cases(), lambda case: case.stem),
    'representative_case': lambda: (others_exhaustive(first_cases()), lambda case: case.stem),
    'scannable_case': lambda: (scannable_cases(), lambda case: case.stem),
    'scannable_representative': lambda: (others_exhaustive(scannable_cases()), lambda case: case.stem),
    'batch_norm_case': lambda: (others_exhaustive(batch_norm_cases()), lambda case: case.stem),
    'class_case': lambda: (constructors().values(), lambda case: f'{case.whole.path}.{case.class_name}'),
    'refused': lambda: (all_refusals(), lambda refused: f'{refused.stem}-{refused.says[:30]}'),
    'objective_case': lambda: (light_always(all_objective_cases()), lambda case: case.id),
    'first_objective_case': lambda: (first_objective_cases(), lambda case: case.stem),
    'representative_objective': lambda: (others_exhaustive(first_objective_cases()), lambda case: case.stem),
    'encoder_case': lambda: (firsts_always(encoder_cases()), lambda case: case.id),
    'refused_objective': lambda: (all_objective_refusals(), lambda refused: f'{refused.stem}-{refused.says[:30]}'),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in PER_MODEL.keys() & set(metafunc.fixturenames):
        declared, label = PER_MODEL[name]()
        metafunc.parametrize(name, declared, ids=label)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What was made for one model goes when the tests of the next one come."""
    if nextitem is None or subject(item) != subject(nextitem):
        specimen.forget()
        _kept_table.cache_clear()
