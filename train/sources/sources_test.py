"""What all data sets have in common."""

import dataclasses
from pathlib import Path

import pytest

from train import sources
from train.config import from_json, to_json
from train.errors import UserError
from train.recipes.digits import CONFIG
from train.sources.source import Source

NAMES = [
    'cifar10', 'cifar100', 'digits', 'fashion_mnist', 'huggingface', 'image_folder', 'mnist', 'npz', 'synthetic',
    'tfds', 'video_folder',
]  # fmt: skip


def test_each_is_found_and_stands_on_the_page():
    assert sources.names() == NAMES
    page = (Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
    assert [name for name in NAMES if f'| `{name}` |' not in page] == []


@pytest.mark.parametrize('name', NAMES)
def test_options_survive_the_file_of_a_run(name):
    source = sources.find(name)()
    assert isinstance(source, Source) and type(source).__doc__
    assert from_json(to_json(dataclasses.replace(CONFIG, data=source))).data == source


def test_an_unknown_name_has_a_nearest_one():
    with pytest.raises(UserError, match="no data set is called 'cifar': did you mean 'cifar10'"):
        sources.find('cifar')
    with pytest.raises(UserError, match='arrays in memory'):
        sources.find('arrays')
