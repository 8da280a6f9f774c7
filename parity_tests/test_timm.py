"""timm's names: the file of their arguments, and every combination of arguments at parity with timm."""

import json
from typing import Any

import pytest

from parity_tests.case import Case
from parity_tests.cases.vision_transformer import IMAGES, SMALL
from parity_tests.compare import compare
from parity_tests.test_upstream import compare_with_upstream
from parity_tests.timm_side import VERSION, timm
from parity_tests.timm_tags import PAGE, SIZES, constructed, names, ours, page, parameters
from vit_flax.weights.timm import published

BUILT = {name: entry for name, entry in published().items() if 'args' in entry}
# One of each family always.
ALWAYS = (
    'vit_base_patch16_224',
    'vit_so400m_patch14_siglip_384',
    'aimv2_large_patch14_224',
    'deit_tiny_distilled_patch16_224',
)


def combinations() -> dict[str, dict[str, Any]]:
    """Arguments beside the sizes, each once, under the first name that has them."""
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, entry in BUILT.items():
        args = {key: value for key, value in entry['args'].items() if key not in SIZES}
        # hidden widths that are halved
        args |= {'mlp_ratio': 1.5} if args.get('mlp') == 'swiglu_packed' else {}
        args |= {'num_classes': 0} if entry['args'].get('num_classes') == 0 else {}
        seen.setdefault(json.dumps(args), (name, args))
    return dict(seen.values())


def some(every: Any, always: int) -> list[Any]:
    return [pytest.param(one, marks=() if i < always else pytest.mark.exhaustive) for i, one in enumerate(every)]


def test_timm_is_the_pinned_release():
    assert timm().__version__ == VERSION


@pytest.mark.parametrize('name', some(combinations(), 2))
def test_every_combination_of_arguments_equals_timm(name: str):
    """The reference to timm, and Flax to the reference: outputs and all gradients, in float64."""
    case = Case(
        name=name, kwargs={**SMALL, **combinations()[name]}, inputs=IMAGES, parameters=0, stem='vision_transformer'
    )
    compare_with_upstream(case)
    report, _ = compare(case)
    assert report.worst <= case.tolerance


def test_the_file_has_every_name_and_tag():
    assert list(published()) == names()
    for name, entry in published().items():
        assert [f'{name}.{tag}' for tag in entry['tags']] == timm().list_pretrained(f'{name}.*')
    assert PAGE.read_text() == page(published()), 'run python -m parity_tests.timm_tags'
    assert sum(len(entry['tags']) for entry in BUILT.values()) >= 326


@pytest.mark.parametrize('name', [*ALWAYS, *some([name for name in BUILT if name not in ALWAYS], 0)])
def test_arguments_and_parameters_of_a_name(name: str):
    assert ours(constructed(name)) == BUILT[name]['args'], 'run python -m parity_tests.timm_tags'
    assert parameters(BUILT[name]['args']) == BUILT[name]['parameters']
