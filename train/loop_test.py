"""Whole runs: killed, stopped, continued, finished, diverged, and started wrongly."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from train.conftest import arrays, assert_same_run, copy_unfinished, number_in, wait_for
from train.log import read_rows
from train.stop import Stop

# Ends like a power cut right after a save has begun: orbax is still writing in the background.
DYING = """
import os, signal, sys
from train import checkpoints
from train.cli import main

save = getattr(checkpoints.Checkpoints, os.environ['DIE_IN'])
def dying(self, state, meta):
    save(self, state, meta)
    if meta['step'] == int(os.environ['DIE_AT']):
        os.kill(os.getpid(), signal.SIGKILL)
setattr(checkpoints.Checkpoints, os.environ['DIE_IN'], dying)
sys.exit(main(sys.argv[1:]))
"""


def assert_pictures_show_something(folder):
    names = {'curves', 'predictions', 'attention', 'positions', 'filters'}
    assert {path.stem for path in (folder / 'plots').iterdir()} == names
    for name in names:
        picture = Image.open(folder / 'plots' / f'{name}.png').convert('RGB')
        assert min(picture.size) > 300, name
        colours = picture.getcolors(picture.width * picture.height) or []
        assert len(colours) > 50 and max(count for count, _ in colours) < 0.95 * picture.width * picture.height, name


def test_says_what_it_did_and_where(whole):
    folder, out = whole
    summary = json.loads((folder / 'summary.json').read_text())
    assert summary['step'] == 24 and 0 <= summary['val/accuracy'] <= 1
    assert f'{100 * summary["val/accuracy"]:.2f} % of the held-out images' in out
    assert f'{summary["parameters"]:,}' in out and str(folder) in out
    assert re.search(r'step 12/24 .* val accuracy .* left', out)
    assert len(list((folder / 'tensorboard').iterdir())) == 1


def test_rows_have_one_step_each(whole):
    rows = read_rows(whole[0] / 'metrics.jsonl')
    assert [row['step'] for row in rows] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert {'train/loss', 'train/accuracy', 'learning_rate', 'images_per_second'} <= rows[2].keys()
    assert [row['step'] for row in rows if 'val/accuracy' in row] == [6, 12, 18, 24]


def test_killed_and_stopped_it_ends_with_the_same_bits(start, train, whole, tmp_path):
    run, rows = ['--out', str(tmp_path / 'run')], tmp_path / 'run' / 'metrics.jsonl'

    def until(step, number):
        process = start(*run)
        wait_for(lambda: read_rows(rows) and read_rows(rows)[-1]['step'] >= step, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    assert train(*run, program=('-c', DYING), DIE_IN='save_best', DIE_AT='6')[0] == -signal.SIGKILL
    assert until(9, signal.SIGKILL)[0] == -signal.SIGKILL
    with rows.open('a') as file:
        file.write('{"step": 23, "train/lo')
    assert train(*run, program=('-c', DYING), DIE_IN='save', DIE_AT='16')[0] == -signal.SIGKILL

    code, out, err = until(18, signal.SIGTERM)
    assert (code, err) == (0, '') and re.search(r'continuing after step (12|16)\n', out)
    stopped = number_in(r'stopped after step (\d+) of 24: the same command continues', out)
    assert 18 <= stopped < 24

    code, out, err = train(*run)
    assert (code, err) == (0, '') and f'continuing after step {stopped}\n' in out
    assert_same_run(tmp_path / 'run', whole[0])


def test_signals_wait_for_the_end_of_a_step():
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        with Stop() as stop:
            assert not stop.requested
            signal.raise_signal(number)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is before


# ---------------------------------------------------------------------- in this process, on eight devices


def test_a_finished_run_says_so_in_a_line(tiny, whole, capsys):
    before = (whole[0] / 'metrics.jsonl').read_bytes()
    assert tiny('--out', str(whole[0]), '--loader.threads=1', '--mesh.fsdp=2') == 0
    out, err = capsys.readouterr()
    assert err == '' and out.count('\n') == 1
    assert 'finished already' in out and str(whole[0]) in out
    assert (whole[0] / 'metrics.jsonl').read_bytes() == before


def test_killed_after_the_last_save_it_still_draws(tiny, whole, tmp_path):
    run = copy_unfinished(whole, tmp_path)
    assert tiny('--out', run, '--plots') == 0
    assert (tmp_path / 'summary.json').exists()
    assert_pictures_show_something(tmp_path)
    assert_same_run(tmp_path, whole[0])


def test_another_config_in_the_same_folder_is_refused(tiny, whole, capsys):
    assert tiny('--out', str(whole[0]), '--seed=3', '--optim.learning-rate=0.5') == 2
    err = capsys.readouterr().err
    assert 'seed: 0 there, 3 now' in err and 'optim.learning_rate: 0.002 there, 0.5 now' in err
    assert 'choose another --out' in err and 'steps' not in err


def test_a_damaged_checkpoint_is_named_and_the_one_before_continues_on_another_mesh(tiny, whole, tmp_path, capsys):
    run = copy_unfinished(whole, tmp_path)
    newest = tmp_path / 'checkpoints' / 'last' / '24'
    for file in (newest / 'state').rglob('*'):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert tiny('--out', run) == 2
    err = capsys.readouterr().err
    assert str(newest) in err and 'continue from step 20' in err

    shutil.rmtree(newest)
    assert tiny('--out', run, '--mesh.fsdp=2', '--mesh.tensor=2', '--mesh.fsdp-min-size=100') == 0
    assert 'continuing after step 20' in capsys.readouterr().out
    ours, theirs = (arrays(folder / 'checkpoints' / 'last' / '24') for folder in (tmp_path, whole[0]))
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_foreign_checkpoints_are_refused(tiny, whole, tmp_path, capsys):
    run = copy_unfinished(whole, tmp_path)
    shutil.rmtree(tmp_path / 'checkpoints' / 'last' / '24' / 'state')
    (tmp_path / 'checkpoints' / 'last' / '24' / 'state').mkdir()
    assert tiny('--out', run) == 2
    assert 'damaged or not of this run' in capsys.readouterr().err


def test_a_diverged_run_keeps_the_last_good_checkpoint(tiny, tmp_path, capsys):
    wild = ['--optim.learning-rate=1e30', '--optim.warmup=0.9', '--model.depth=1', '--save-every=1']
    assert tiny('--out', str(tmp_path), *wild) == 1
    err = capsys.readouterr().err
    step = number_in(r'at step (\d+) the loss is', err)
    assert f'the last good checkpoint is {tmp_path}/checkpoints/last/{step - 1}:' in err
    assert all(row['step'] < step for row in read_rows(tmp_path / 'metrics.jsonl'))
    for name, array in arrays(tmp_path / 'checkpoints' / 'last' / str(step - 1)).items():
        assert np.isfinite(array).all(), name
