"""`plots` draws again, whatever became of the run."""

import shutil

import numpy as np
from PIL import Image

from train.cli import main

EVERYTHING = {'curves.png', 'predictions.png', 'attention.png', 'positions.png', 'filters.png'}


def test_a_finished_run_is_drawn_again(finished, tmp_path, capsys):
    assert main(['plots', str(finished), '--out', str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == EVERYTHING
    assert f'drawn in {tmp_path}: curves.png, ' in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / 'predictions.png').convert('L'))
    assert picture.std() > 10


def test_a_young_run_has_curves(finished, tmp_path, capsys):
    shutil.copy(finished / 'config.json', tmp_path / 'config.json')
    rows = (finished / 'metrics.jsonl').read_text().splitlines()
    (tmp_path / 'metrics.jsonl').write_text(rows[0] + '\n')  # before the first look at the held-out data
    assert main(['plots', str(tmp_path)]) == 0
    assert 'only the curves, since there is no checkpoint' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'plots').iterdir()] == ['curves.png']


def test_a_run_that_has_not_begun_has_nothing_to_draw(finished, tmp_path, capsys):
    shutil.copy(finished / 'config.json', tmp_path / 'config.json')
    assert main(['plots', str(tmp_path)]) == 2
    assert 'there is no checkpoint' in capsys.readouterr().err
