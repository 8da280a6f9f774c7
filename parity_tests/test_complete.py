"""Every upstream module has model or objective, reference and cases."""

import pkgutil
from pathlib import Path

from parity_tests.case import all_cases
from parity_tests.objective_case import all_objective_cases
from parity_tests.upstream import upstream_stems

ROOT = Path(__file__).parent.parent
PLACES = ('vit_flax/models', 'vit_torch_ref/models', 'parity_tests/cases')
OBJECTIVE_PLACES = ('vit_flax/objectives', 'vit_torch_ref/objectives', 'parity_tests/objectives')
# upstream has these models beside their objectives or losses; here they stand with the other models
OBJECTIVES_WITH_MODELS = {'distill', 'levjepa', 'levjepa_nd', 'looped_vit', 'mp3', 'vit_with_decorr'}
WRAPPERS = {info.name for info in pkgutil.iter_modules([str(ROOT / 'vit_flax/wrappers')])}
# parts of models, without a class to build
BLOCKS = {'vit_nd_masking'}


def files(place: str) -> set[str]:
    return {info.name for info in pkgutil.iter_modules([str(ROOT / place)])}


def test_same_stems_in_three_places():
    models, witnesses, cases = map(files, PLACES)
    assert models == witnesses == cases
    assert models == {case.stem for case in all_cases()}, 'a case file without cases'


def test_same_objectives_in_three_places():
    """But for what they share, which upstream has no module of."""
    objectives, witnesses, cases = (files(place) & upstream_stems() for place in OBJECTIVE_PLACES)
    assert objectives == witnesses == cases
    assert cases == {case.stem for case in all_objective_cases()}, 'a case file without cases'
    assert objectives >= OBJECTIVES_WITH_MODELS <= files('vit_flax/models')


def test_nothing_of_upstream_is_forgotten():
    missing = upstream_stems() - files('vit_flax/models') - files('vit_flax/objectives') - WRAPPERS - BLOCKS
    assert not missing
    assert files('vit_flax/blocks') >= BLOCKS
