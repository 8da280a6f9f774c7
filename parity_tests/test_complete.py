"""Every upstream module has its model, its witness and its cases, or stands in the list of those to come."""

import pkgutil
from pathlib import Path

from parity_tests.case import all_cases
from parity_tests.upstream import upstream_stems

ROOT = Path(__file__).parent.parent
PLACES = ('vit_flax/models', 'vit_torch_ref/models', 'parity_tests/cases')
WRAPPERS = {info.name for info in pkgutil.iter_modules([str(ROOT / 'vit_flax/wrappers')])}
# parts of models, without a class to build
BLOCKS = {'vit_nd_masking'}
NOT_PORTED = set((ROOT / 'parity_tests/not_ported.txt').read_text().split())


def files(place: str) -> set[str]:
    return {info.name for info in pkgutil.iter_modules([str(ROOT / place)])}


def test_same_stems_in_three_places():
    models, witnesses, cases = map(files, PLACES)
    assert models == witnesses == cases
    assert models == {case.stem for case in all_cases()}, 'a case file without cases'


def test_nothing_of_upstream_is_forgotten():
    missing = upstream_stems() - files('vit_flax/models') - WRAPPERS - BLOCKS
    assert files('vit_flax/blocks') >= BLOCKS
    assert missing <= NOT_PORTED, 'not ported and not listed: the list can only shrink'
    assert upstream_stems() >= NOT_PORTED
    assert len(NOT_PORTED) <= 16
