"""The README's snippets run, and the generated pages are up to date."""

import re
from pathlib import Path

import pytest
import torch

from parity_tests.case import REPRESENTATIVES
from parity_tests.docs import ROOT, facts, name_and_paper, quirks, speed, weights
from vit_flax.registry import stems
from vit_torch_ref.models.vit import ViT

EXHAUSTIVE = pytest.mark.exhaustive
README = (ROOT / 'README.md').read_text()


def test_readme_snippets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All of them, one after another in one namespace, on a checkpoint made here."""
    monkeypatch.chdir(tmp_path)
    checkpoint = ViT(image_size=224, patch_size=16, num_classes=10, dim=192, depth=12, heads=3, mlp_dim=768)
    torch.save(checkpoint.state_dict(), 'vit.pt')
    snippets = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    assert len(snippets) == 4
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, 'README.md', 'exec'), names)
    assert names['logits'].shape == (2, 1000)
    assert names['attention'].shape == (2, 6, 8, 65, 65)
    assert names['table'].shape == (577, 192)
    assert names['loss'].shape == () and names['loss'] > 0
    for name, value in checkpoint.state_dict().items():
        assert (names['back'][name] == value.numpy()).all()


def test_readme_says_what_exists():
    for path in re.findall(r'\]\(((?!http)[^)#]+)\)', README):
        assert (ROOT / path).exists(), path
    for folder in re.findall(r'^(\w+)/ ', README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


@pytest.mark.parametrize('stem', stems())
def test_tables_hold_every_model(stem: str):
    assert name_and_paper(stem) in README, 'run python -m parity_tests.docs'
    assert name_and_paper(stem) in (ROOT / 'docs/models.md').read_text(), 'run python -m parity_tests.docs'


@pytest.mark.parametrize(
    'stem', [pytest.param(stem, marks=() if stem in REPRESENTATIVES else EXHAUSTIVE) for stem in stems()]
)
def test_parameters_at_the_size_of_the_paper_are_upstreams(stem: str):
    assert facts(stem) in (ROOT / 'docs/models.md').read_text(), 'run python -m parity_tests.docs'


@pytest.mark.parametrize('name, page', [('quirks', quirks), ('speed', speed), ('weights', weights)])
def test_pages_are_up_to_date(name, page):
    assert (ROOT / f'docs/{name}.md').read_text() == page(), 'run python -m parity_tests.docs'
