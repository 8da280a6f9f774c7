"""Unreadable images are counted once each, over restarts too, and the run goes on."""

import json

import numpy as np
import pytest
from PIL import Image

from train.data.skipped import Skipped
from train.sources.digits import Digits
from train.sources.image_folder import ImageFolder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twelve images of two classes to train on, six held out; two and one cannot be read."""
    root = tmp_path_factory.mktemp('images')
    for split, count in (('train', 6), ('val', 3)):
        for name, shade in (('dark', 20), ('light', 200)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new('L', (10 + i, 12), shade + i).save(root / split / name / f'{i}.png')
    for damaged in ('train/dark/1.png', 'train/light/5.png', 'val/light/0.png'):
        (root / damaged).write_bytes((root / damaged).read_bytes()[:40])
    return root


def records(folder, corrupt='skip'):
    return ImageFolder(path=str(folder), corrupt=corrupt).records('train')


def test_each_is_counted_once_and_the_first_is_named(folder):
    said: list[str] = []
    skipped = Skipped(records(folder), said.append)
    plain = {'image': np.zeros((4, 1)), 'skipped': np.array([0, 0, 0, 0])}
    assert skipped.taken_out(plain).keys() == {'image'} and not said and skipped.found() == []
    skipped.taken_out({'skipped': np.array([0, 2, 0, 2])})
    skipped.taken_out({'skipped': np.array([12, 0, 2, 0])})
    assert skipped.found() == [1, 11]
    (line,) = said
    assert 'dark/1.png cannot be read (' in line and 'summary.json' in line


def test_what_earlier_sessions_met_is_known(folder):
    said: list[str] = []
    skipped = Skipped(records(folder), said.append, known=[1])
    skipped.taken_out({'skipped': np.array([2, 12])})
    assert skipped.found() == [1, 11] and not said


def test_other_data_have_none(folder):
    for others in (records(folder, corrupt='refuse'), Digits().records('train')):
        skipped, batch = Skipped(others, print), {'image': np.zeros(3)}
        assert skipped.taken_out(batch) is batch and skipped.found() == []


def arguments(folder, out, *more):
    return [
        '--data.name=image_folder', f'--data.path={folder}', '--data.channels=1', '--augment.image-size=8',
        '--augment.rotate=0', '--augment.shift=0', '--augment.zoom=0', '--batch-size=8', '--steps=6', '--eval-every=3',
        '--save-every=2', f'--out={out}', *more,
    ]  # fmt: skip


def test_a_run_goes_on_and_says_how_many(tiny, folder, tmp_path, capsys):
    assert tiny(*arguments(folder, tmp_path / 'run', '--data.corrupt=skip')) == 0
    out = capsys.readouterr().out
    assert out.count('cannot be read (') == 2  # the first to train on, the first held out
    assert '3 images were skipped' in out and 'of 5)' in out
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['unreadable'] == {'train': 2, 'val': 1}


def test_a_run_refuses_in_one_line(tiny, folder, tmp_path, capsys):
    assert tiny(*arguments(folder, tmp_path / 'run')) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and 'cannot be read: ' in err and '--data.corrupt skip' in err
