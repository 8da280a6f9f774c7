"""timm's names: the file of their arguments, and every combination of arguments at parity with timm."""

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch

import vit_flax
from parity_tests.bridge import make_pair
from parity_tests.case import case_file
from parity_tests.cases.vision_transformer import SMALL
from parity_tests.compare import compare
from parity_tests.test_upstream import compare_with_upstream
from parity_tests.timm_side import VERSION, timm
from parity_tests.timm_tags import MODULES, OTHERS, PAGE, SIZES, names, ours, page, parameters, tags_built
from vit_flax.models.vision_transformer import VisionTransformer
from vit_flax.registry import model_info, stems
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


# The smallest of each class.
SMALLEST = (
    'vit_tiny_patch16_224', 'vit_tiny_r_s16_p8_224', 'eva02_tiny_patch14_224', 'vit_small_patch16_rope_mixed_224',
    'vit_tiny_patch16_dinov3_qkvb', 'vit_pe_core_tiny_patch16_384', 'beit_base_patch16_224', 'qwen3_vit_88m_merge',
    'qwen3_vit_88m_enc',
)  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.parametrize('name', SMALLEST)
def test_a_network_of_a_name_is_timms(name: str):
    """As it is created by name, with timm's weights both ways: in float32, at its size."""
    torch.manual_seed(0)
    theirs = timm().create_model(name).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter) if parameter.ndim < 2 else 0
    state_dict = theirs.state_dict()
    model = vit_flax.create_model(name)
    with jax.enable_x64(False):
        variables = vit_flax.from_torch(model, state_dict, source='timm')
        size = (1, 64, 96, 3) if name.startswith('qwen3') else model.example_input().shape
        images = np.random.default_rng(0).normal(size=size).astype(np.float32)
        got = np.asarray(jax.jit(model.apply)(variables, images))
    with torch.no_grad():
        want = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    back = vit_flax.to_torch(model, variables, source='timm')
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(array, state_dict[name].numpy()) for name, array in back.items())


@pytest.mark.parametrize(
    'stem, name, shape',
    [
        ('beit', 'blocks.{}.attn.relative_position_index', (16, 16)),
        ('eva', 'rope.pos_embed', (24, 16)),
    ],
)
def test_tables_that_older_releases_stored(stem: str, name: str, shape: tuple[int, int]):
    """What follows from the sizes is not read."""
    pair = make_pair(replace(case_file(stem).CASES[0], stem=stem))
    model, variables = pair.flax, pair.variables
    state_dict = vit_flax.to_torch(model, variables, source='timm')
    older = {name.format(i): np.ones(shape, np.int64) for i in range(2)}
    got = vit_flax.from_torch(model, {**state_dict, **older}, source='timm')
    assert jax.tree.all(jax.tree.map(np.array_equal, got, variables))


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


def test_a_name_of_timm_is_its_network():
    """No preset of another model has one."""
    names = set(timm().list_models())
    of_others = {name for stem in stems() for name in (stem, *model_info(stem).presets)} - published().keys()
    assert not names & of_others
