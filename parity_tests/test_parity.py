"""Outputs, gradients of every parameter and input, new statistics and the number of parameters, in float64."""

import re

from parity_tests.case import Case, all_cases
from parity_tests.compare import Report, judge, measure
from parity_tests.docs import ROOT, bound, name_and_paper, worst
from parity_tests.specimen import specimen

# Rounding differs from processor to processor.
FACTOR = 100


def report(case: Case) -> Report:
    one = specimen(case)
    return measure(case, one.in_flax, one.wanted(one.pair))


def test_equal_to_torch(case: Case):
    judge(case, report(case), specimen(case).pair)


def test_figures_of_the_docs(first_case: Case):
    """The errors that docs/models.md states are those of the runs of the test above."""
    cases = [case for case in all_cases() if case.stem == first_case.stem]
    (row,) = re.findall(rf'^{re.escape(name_and_paper(first_case.stem))}.*$', PAGE, re.MULTILINE)
    *figures, last = row.strip('| ').split(' | ')[-4:]
    assert last == bound(cases), 'run python -m parity_tests.docs'
    for figure, error in zip(figures, worst(report(case) for case in cases), strict=True):
        assert (figure == '-') == (error == 0)
        if error:
            assert 1 / FACTOR <= error / float(figure) <= FACTOR, (
                f'{error:.0e}, not {figure}: run python -m parity_tests.docs'
            )


PAGE = (ROOT / 'docs' / 'models.md').read_text()
