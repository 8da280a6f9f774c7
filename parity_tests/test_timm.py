"""timm's names: the file of their arguments, and every combination of arguments at parity with timm."""

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from parity_tests.case import case_file
from parity_tests.cases.vision_transformer import SMALL
from parity_tests.compare import compare
from parity_tests.test_upstream import compare_with_upstream
from parity_tests.timm_side import VERSION, timm
from parity_tests.timm_tags import MODULES, OTHERS, PAGE, SIZES, names, ours, page, parameters, tags_built
from vit_flax.models.vision_transformer import VisionTransformer
from vit_flax.weights.timm import published

BUILT = {name: entry for name, entry in published().items() if 'args' in entry}
# One of each family always.
ALWAYS = (
    'vit_base_patch16_224',
    'vit_so400m_patch14_siglip_384',
    'aimv2_large_patch14_224',
    'deit_tiny_distilled_patch16_224',
    'vit_small_r26_s32_224',
)


def combinations() -> dict[str, tuple[str, dict[str, Any]]]:
    """Stem and arguments beside the sizes, each once, under the first name that has them."""
    seen: dict[str, tuple[str, tuple[str, dict[str, Any]]]] = {}
    for name, entry in BUILT.items():
        args = {key: value for key, value in entry['args'].items() if key not in SIZES}
        args = {**case_file(entry['stem']).SMALL, **args, **case_file(entry['stem']).narrow(args)}
        args |= {'num_classes': 0} if entry['args'].get('num_classes') == 0 else {}
        seen.setdefault(json.dumps([entry['stem'], args]), (name, (entry['stem'], args)))
    return dict(seen.values())


def one_of_each_class() -> list[str]:
    """Their cases hold some more against timm always."""
    return list({stem: name for name, (stem, _) in combinations().items()}.values())


def some(every: Iterable[str], always: Collection[str]) -> list[Any]:
    return [pytest.param(one, marks=() if one in always else pytest.mark.exhaustive) for one in every]


def test_timm_is_the_pinned_release():
    assert timm().__version__ == VERSION


@pytest.mark.parametrize('name', some(combinations(), one_of_each_class()))
def test_every_combination_of_arguments_equals_timm(name: str):
    """The reference to timm, and Flax to the reference: outputs and all gradients, in float64."""
    stem, args = combinations()[name]
    case = replace(case_file(stem).CASES[0], name=name, kwargs=args, stem=stem)
    compare_with_upstream(case)
    report, _ = compare(case)
    assert report.worst <= case.tolerance


def test_the_file_has_every_name_and_tag():
    assert list(published()) == names()
    for name, entry in published().items():
        assert [f'{name}.{tag}' for tag in entry['tags']] == timm().list_pretrained(f'{name}.*')
    assert PAGE.read_text() == page(published()), 'run python -m parity_tests.timm_tags'
    assert tags_built(published(), MODULES)[0] >= 330
    assert tags_built(published(), (*MODULES, *OTHERS))[0] >= 460


@pytest.mark.parametrize('name', some(BUILT, ALWAYS))
def test_arguments_and_parameters_of_a_name(name: str):
    kind, args = ours(name)
    assert (kind.__module__.rpartition('.')[2], args) == (BUILT[name]['stem'], BUILT[name]['args']), (
        'run python -m parity_tests.timm_tags'
    )
    assert parameters(kind, args) == BUILT[name]['parameters']


def test_dropped_paths_and_patches():
    """A branch that is dropped adds nothing, one that stays what it adds over its chance to stay, as in timm."""
    model = VisionTransformer(**SMALL, drop_path_rate=0.4, patch_drop_rate=0.5, final_norm=False)
    images = np.random.default_rng(0).normal(size=(2, 24, 36, 3))
    variables = model.init(jax.random.key(0), images)
    tokens = model.apply(variables, images, method='embed')
    keep = np.ones((2, 2, 2), bool)

    def encode(keep, model=model):
        return np.asarray(model.apply(variables, tokens, True, keep, method='encode'))

    # of each image by itself
    np.testing.assert_array_equal(encode(keep & [True, False])[1], tokens[1])
    # the first block, and of the second one attention alone
    begun = keep & np.array([[[True], [True]], [[False], [False]]])
    attends = keep & np.array([[[True], [True]], [[True], [False]]])
    added = encode(attends) - encode(begun)
    always = model.clone(drop_path_rate=0.0)
    np.testing.assert_allclose(added, (encode(attends, always) - encode(begun, always)) / 0.6, rtol=1e-9, atol=1e-12)
    assert np.abs(added).max() > 1e-6
    kept = model.apply(variables, images, True, method='embed', rngs={'mask': jax.random.key(1)})
    assert kept.shape == (2, 1 + 12, 20)
    found = {row.tobytes() for row in np.asarray(kept[0, 1:])}
    assert len(found) == 12 and found < {row.tobytes() for row in np.asarray(tokens[0, 1:])}
