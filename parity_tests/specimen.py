"""One object for each case: what the tests of a case share, each part made when it is first asked for.

The tests of one model follow each other in one process (see conftest.py), so a handful is kept. Nobody changes what a
specimen holds; who must (training, other arguments, planted mistakes) makes a pair of their own.
"""

import copy
from dataclasses import replace
from functools import cached_property, lru_cache

from parity_tests.bridge import Pair, Run, TorchRun, call_torch, in_flax_names, make_pair, run_flax
from parity_tests.case import Case, all_cases

# More cases than any model has: vaat has eleven.
KEPT = 24


class Specimen:
    """A case on both sides."""

    def __init__(self, case: Case):
        self.case = case

    @cached_property
    def pair(self) -> Pair:
        """The two models with the same weights."""
        return make_pair(self.case)

    @cached_property
    def scanned(self) -> Pair:
        """The same with a trunk that is scanned and rematerialised, its Flax variables stacked."""
        return make_pair(self.case, scan=True, remat=True)

    @cached_property
    def in_torch(self) -> TorchRun:
        """Outputs and gradients of the reference, whose statistics stay as they are."""
        return call_torch(replace(self.pair, torch=copy.deepcopy(self.pair.torch)))

    @cached_property
    def in_flax(self) -> Run:
        """The same of the Flax model, compiled for one device."""
        return run_flax(self.pair)

    def wanted(self, pair: Pair) -> Run:
        """The PyTorch reference's run in the names of the Flax model of a pair."""
        return in_flax_names(pair, self.in_torch)


def specimen(case: Case) -> Specimen:
    """That of a declared case; for one that a test has changed, make a pair."""
    return _specimen(case.id)


@lru_cache(maxsize=KEPT)
def _specimen(case_id: str) -> Specimen:
    return Specimen(next(case for case in all_cases() if case.id == case_id))


def forget() -> None:
    """Gives their memory back."""
    _specimen.cache_clear()
