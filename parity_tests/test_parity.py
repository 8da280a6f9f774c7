"""Outputs, gradients of every parameter and input, new statistics and the number of parameters, in float64."""

from parity_tests.case import Case
from parity_tests.compare import check


def test_equal_to_torch(case: Case):
    check(case)
