import json
import os

import pytest

from vit_flax.cli.errors import UserError
from vit_flax.cli.rows import read_rows


@pytest.fixture
def rows_of(tmp_path):
    def read(names, ignore=(), **others):
        (tmp_path / 'rows.json').write_text(json.dumps({'names': names, 'ignore': [*ignore], **others}))
        return read_rows(tmp_path / 'rows.json')

    return read


def test_the_longest_row_wins_once(rows_of):
    rows = rows_of(
        {'b.{i}': 'layers.{i}', 'b.{i}.mlp.fc': 'layers.{i}.1.net.{2*i+1}', 'head': 'a', 'a': 'never', 'module': ''}
    )
    assert rows.rename('b.3.attn.weight') == 'layers.3.attn.weight'
    assert rows.rename('b.3.mlp.fc.weight') == 'layers.3.1.net.7.weight'
    assert rows.rename('head.weight') == 'a.weight'
    assert rows.rename('header.weight') == 'header.weight'
    assert rows.rename('module.x.weight') == 'x.weight'


def test_regular_expressions(rows_of):
    rows = rows_of({r'^stem\.(\d+)': r'to_patch_embedding.\1', r'^_orig_mod\.': ''})
    assert rows.rename('stem.3.weight') == 'to_patch_embedding.3.weight'
    assert rows.rename('_orig_mod.head.weight') == 'head.weight'


def test_translation(rows_of):
    rows = rows_of({'b': 'a'}, ignore=['aux.{i}'])
    assert rows.translate(['b.weight', 'c', 'aux.0.weight']) == {'b.weight': 'a.weight', 'c': 'c'}
    with pytest.raises(UserError, match=r"both 'b.weight' and 'a.weight' become 'a.weight'"):
        rows.translate(['b.weight', 'a.weight', 'aux.0'])
    with pytest.raises(UserError, match=r"'b' fits no name of the model: there are|did you mean"):
        rows.translate(['c', 'aux.0'])
    with pytest.raises(UserError, match=r"'blocks.{i}.atn' fits no name .* 'blocks.{i}.attn'"):
        rows_of({'blocks.{i}.atn': 'x.{i}'}).translate(['blocks.0.attn.weight'])


def test_toml(tmp_path):
    path = tmp_path / 'rows.toml'
    path.write_text('ignore = ["aux"]\n[names]\n"a.{i}" = "b.{i}"\n')
    assert read_rows(path).rename('a.1.weight') == 'b.1.weight'
    assert read_rows(None).rename('a.1') == 'a.1'


@pytest.mark.parametrize(
    'content, says',
    [
        ({'names': {'a': 'b.{i}'}}, r"'b.{i}' has {i}, which 'a' has not"),
        ({'names': {'^a(': 'b'}}, 'cannot be read'),
        ({'names': {'^a': r'\1'}}, 'no group'),
        ({'names': {'{i}.{i}': 'b'}}, 'cannot be read'),
        ({'name': {}}, "unknown key 'name': did you mean 'names'"),
        ({'names': {'a': 1}}, '`names` must be a table'),
        ({'ignore': 'a'}, '`ignore` must be a list'),
        ([], 'must hold'),
    ],
)
def test_mistakes(tmp_path, content, says):
    (tmp_path / 'rows.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match=says):
        read_rows(tmp_path / 'rows.json')


def test_no_file(tmp_path):
    with pytest.raises(UserError, match='No such file'):
        read_rows(tmp_path / 'rows.toml')
    os.mkfifo(tmp_path / 'fifo')
    for path in (tmp_path / 'fifo', '/dev/zero', tmp_path):
        with pytest.raises(UserError, match='is no file'):
            read_rows(path)
    for text in ('a = = b', 'a=' + '[' * 100_000, '#' * 2**21):
        for name in ('rows.toml', 'rows.json'):
            (tmp_path / name).write_text(text)
            with pytest.raises(UserError, match=r'rows\.(toml|json)'):
                read_rows(tmp_path / name)
