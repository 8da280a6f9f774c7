"""Outputs, gradients of every parameter and input, new statistics and the number of parameters, in float64."""

from parity_tests.case import Case
from parity_tests.compare import judge, measure
from parity_tests.specimen import specimen


def test_equal_to_torch(case: Case):
    one = specimen(case)
    judge(case, measure(case, one.in_flax, one.wanted(one.pair)), one.pair)
