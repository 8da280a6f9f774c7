"""Paths as somebody may type them, and names as somebody may have given them."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train import commands, recipes, sources
from train.checkpoints import Checkpoints
from train.cli import main, parse
from train.config import check
from train.conftest import TINY
from train.errors import UserError
from train.facts import Facts
from train.folder import open_folder
from train.places import place, place_to_write
from train.setup import set_up

WRONG = {
    'too long': 'a' * 300,
    'far too long': '/'.join(['a' * 100] * 60),
    'a zero byte': 'a\0b',
    'a home that nobody knows': '~nobody-here/x',
    'a loop of links': 'loop/x',
}


@pytest.mark.parametrize('path', WRONG.values(), ids=WRONG)
def test_what_can_be_no_path_is_one_line(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink('loop', 'loop')
    for look in (place, place_to_write):
        with pytest.raises(UserError, match=r"^data\.path='.{1,100}' cannot be used: [^\n]+$"):
            look(path, 'data.path')
    with pytest.raises(UserError, match=r"^out='\\udcff' is no valid UTF-8"):
        place_to_write('\udcff', 'out')


def test_every_command_looks_at_its_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = 'a' * 300
    for command in (
        ['digits', '--out', path],
        ['digits', '--init', path],
        ['digits', '--data.name=mnist', '--data.path', path],
        ['distill', '--objective.teacher', path, '--data.name=digits'],
        *([name, path] for name in commands.names() if name not in ('recipes', 'predict')),
        ['predict', path, 'x.png'],
    ):
        assert main(command) == 2, command
        out, err = capsys.readouterr()
        assert err.startswith('error: ') and err.count('\n') == 1 and len(err) < 700 and not out, command
    for name in sources.names():
        source: Any = sources.find(name)
        if any(field.name == 'path' for field in dataclasses.fields(source)):
            config = dataclasses.replace(recipes.find('digits').CONFIG, data=source(path=path))
            with pytest.raises(UserError, match=r'^data\.path=.* cannot be used: File name too long'):
                check(config)
    assert not os.listdir()


def test_a_path_to_write_to_is_looked_at_first(tmp_path, finished, capsys):
    for command in ('eval', '--json'), ('features', '--out'), ('plots', '--out'), ('predict', 'x.png', '--out'):
        name, *others = command
        assert main([name, str(finished), *others, 'a' * 300]) == 2
        assert 'cannot be used: File name too long' in capsys.readouterr().err


def test_without_a_home(tmp_path, monkeypatch, capsys):
    """As in a container whose user has no name."""

    def nobody():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'home', nobody)
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    for cache in ('', 'somewhere/relative'):
        monkeypatch.setenv('XDG_CACHE_HOME', cache)
        monkeypatch.chdir(tmp_path)
        assert main(['digits', *TINY, '--data.name=npz', '--data.path=none.npz']) == 2
        assert "data.path='none.npz' is not a file" in capsys.readouterr().err
        assert not os.listdir()


def test_names_of_any_bytes(tmp_path, capsys):
    """Classes and files, from a disk that has seen other systems: a run on them is begun and used."""
    draw = np.random.default_rng(0)
    for name in (b'caf\xe9', 'größe'.encode(), b'\xff\xfe $x$ $'):
        for split in ('train', 'val'):
            folder = os.path.join(os.fsencode(tmp_path), b'data', split.encode(), name)
            os.makedirs(folder)
            with open(os.path.join(folder, b'\xe9.png'), 'wb') as file:
                Image.fromarray(draw.integers(0, 255, (16, 16, 3), np.uint8)).save(file, 'PNG')
    args = [*TINY, '--data.name=image_folder', f'--data.path={tmp_path}/data', '--out', str(tmp_path / 'run')]
    config, _ = parse('digits', [*args, '--augment.rotate=0', '--optim.ema=0'])
    setup, run = set_up(config), open_folder(config)
    assert Facts.read(run).classes == ('caf\udce9', 'größe', '\udcff\udcfe $x$ $')
    checkpoints = Checkpoints(run / 'checkpoints')
    checkpoints.save(setup.initial(), {'step': 0, 'seconds': 0, 'val': {}})
    checkpoints.close()
    picture = os.fsdecode(os.path.join(os.fsencode(tmp_path), b'data', b'val', b'caf\xe9', b'\xe9.png'))
    used = '--checkpoint=last', '--out', str(tmp_path / 'drawn')
    assert main(['predict', str(run), picture, *used]) == 0
    assert capsys.readouterr().err == ''
    assert len(list((tmp_path / 'drawn').iterdir())) == 1
