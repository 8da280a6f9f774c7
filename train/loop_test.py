"""Whole runs: killed, stopped, continued, finished, diverged, and started wrongly."""

import dataclasses
import json
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.checkpoints import CHECKSUMS, Checkpoints, Damaged, check
from train.cli import main, parse
from train.conftest import TINY, arrays, assert_same_run, copy_unfinished, number_in, wait_for
from train.errors import Diverged, UserError
from train.folder import read_summary
from train.log import read_rows
from train.loop import check_sound, is_better
from train.setup import set_up
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


def damaged(file: Path) -> None:
    """One bit of a file flips."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_moved_and_the_one_before_continues_on_another_mesh(tiny, whole, tmp_path, capsys):
    run = copy_unfinished(whole, tmp_path)
    newest = tmp_path / 'checkpoints' / 'last' / '24'
    damaged(max((newest / 'state').rglob('*'), key=lambda path: path.is_file() and path.stat().st_size))
    assert tiny('--out', run, '--mesh.fsdp=2', '--mesh.tensor=2', '--mesh.fsdp-min-size=100') == 0
    out, err = capsys.readouterr()
    kept = tmp_path / 'checkpoints' / 'damaged' / 'last-24'
    (line,) = (line for line in out.splitlines() if 'is damaged' in line)
    assert err == '' and 'has other bytes than were written' in line
    assert str(newest) in line and f'it is now {kept}, and the run continues from step 20' in line
    assert 'continuing after step 20' in out and kept.is_dir() and newest.is_dir()
    ours, theirs = (arrays(folder / 'checkpoints' / 'last' / '24') for folder in (tmp_path, whole[0]))
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture
def stored(whole, tmp_path):
    """Checkpoints of a run, those of `whole`, and the shapes of its state."""
    copy_unfinished(whole, tmp_path)
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path / 'checkpoints', said.append)
    config = parse('digits', [*TINY, '--out', str(tmp_path)])[0]
    yield checkpoints, set_up(config).state, said
    checkpoints.close()


def test_any_flipped_bit_is_found(stored):
    """In every file of a checkpoint, one after the other."""
    checkpoints, _, _ = stored
    place = checkpoints.folder / 'last' / '24'
    assert check(place)
    files = [path for item in ('state', 'meta') for path in (place / item).rglob('*') if path.is_file()]
    assert len(files) > 10
    for file in files:
        before = file.read_bytes()
        for change in (*([damaged] if before else []), lambda path: path.open('ab').write(b'x'), Path.unlink):
            change(file)
            with pytest.raises(Damaged, match=re.escape(file.name)):
                check(place)
            file.write_bytes(before)
    for sums in ('', '{}', '[]', '[' * 100_000):
        (place / CHECKSUMS).write_text(sums)
        with pytest.raises(Damaged, match='cannot be read'):
            check(place)
    (place / CHECKSUMS).unlink()
    assert not check(place)


@pytest.mark.parametrize('sums', [True, False], ids=['with checksums', 'of before there were any'])
def test_whatever_is_damaged_the_newest_whole_one_continues(stored, sums):
    checkpoints, state, said = stored
    for step in (20, 24):
        place = checkpoints.folder / 'last' / str(step)
        (place / 'state' / '_METADATA').write_text('')
        if not sums:
            (place / CHECKSUMS).unlink()
    best = checkpoints.best()['step']
    _, meta = checkpoints.restore(state)
    assert meta['step'] == best and len(said) == 2 and all(f'continues from step {best}' in line for line in said)
    damaged(checkpoints.folder / 'best' / str(best) / 'meta' / 'metadata')
    assert checkpoints.best() is None
    assert checkpoints.restore(state) is None, 'nothing is left'
    assert len(list((checkpoints.folder / 'damaged').iterdir())) == 3


def test_nothing_whole_is_refused(stored):
    checkpoints, state, _ = stored
    for place in [*(checkpoints.folder / 'last').iterdir(), *(checkpoints.folder / 'best').iterdir()]:
        damaged(place / 'meta' / 'metadata')
    with pytest.raises(UserError, match=r'last/24 is damaged .*, and so are the 2 others: remove .* to start over'):
        checkpoints.restore(state)
    assert not (checkpoints.folder / 'damaged').exists()


def test_foreign_checkpoints_are_refused(stored):
    """What is whole, but of another network, is nobody's damage."""
    checkpoints, state, said = stored
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=None), state)
    with pytest.raises(UserError, match=r'last/24 is not of this run: choose another --out'):
        checkpoints.restore(other)
    assert not said and not (checkpoints.folder / 'damaged').exists()


def test_a_damaged_best_one_does_not_stop_the_run(tiny, whole, tmp_path, capsys):
    run = copy_unfinished(whole, tmp_path)
    (best,) = (tmp_path / 'checkpoints' / 'best').iterdir()
    damaged(best / 'meta' / 'metadata')
    assert tiny('--out', run) == 0
    out, err = capsys.readouterr()
    assert err == '' and f'{best} is damaged' in out
    assert json.loads((tmp_path / 'summary.json').read_text())['best']['step'] == 24


def test_damaged_records_of_a_run(tiny, whole, tmp_path, capsys):
    """Rows and summary are written anew or left out; a config is what the run is, and has to be whole."""
    run = copy_unfinished(whole, tmp_path)
    rows = (tmp_path / 'metrics.jsonl').read_bytes()
    first = rows.splitlines(keepends=True)[0]
    torn = [
        b'null\n',
        b'\xff\xfe{\n',
        b'[' * 99_999,
        b'\n{"step": "3"}\n',
        b'{"step": 3, "train/loss": "x"}\n',
        b'{"step": 5, "a',
    ]
    (tmp_path / 'metrics.jsonl').write_bytes(rows.replace(first, first + b''.join(torn) + b'\n'))
    for summary in ('', '{"step": 24', '[]', '{"step": "x"}', '{}'):
        (tmp_path / 'summary.json').write_text(summary)
        assert read_summary(tmp_path) is None
    assert tiny('--out', run) == 0
    assert_same_run(tmp_path, whole[0])
    assert (read_summary(tmp_path) or {})['step'] == 24
    capsys.readouterr()
    for config in ('', '{', '[]', '3', 'null', '[' * 100_000, '\udcff'):
        (tmp_path / 'config.json').write_text(config, errors='surrogateescape')
        for command in (['--out', run], None):
            code = tiny(*command) if command else main(['eval', run])
            err = capsys.readouterr().err
            assert code == 2 and err.count('\n') == 1 and 'config.json cannot be read' in err, config


def test_of_equal_accuracies_the_lower_loss_is_better():
    config = parse('digits', [])[0]

    def looked(accuracy, loss):
        return {'val/accuracy': accuracy, 'val/loss': loss}

    best = {'val': looked(0.9, 0.3)}
    assert is_better(config, looked(0.8, 0.1), None) and is_better(config, looked(0.91, 0.9), best)
    assert is_better(config, looked(0.9, 0.29), best)
    assert not is_better(config, looked(0.9, 0.3), best), 'a repeated stretch keeps its own'
    assert not is_better(config, looked(0.9, 0.31), best) and not is_better(config, looked(0.89, 0.1), best)


@pytest.mark.parametrize(
    'wild, says',
    [
        # The loss of a step is that of the parameters before it: still good while those after it are not.
        (['--optim.name=sgd', '--optim.learning-rate=1e25', '--eval-every=1'], 'after step 2 the held-out loss is'),
        (['--optim.learning-rate=1e30', '--optim.ema=0'], 'step 2 has made parameters as large as'),
    ],
    ids=['best', 'last'],
)
def test_a_diverged_run_keeps_the_last_good_checkpoint(wild, says, tiny, tmp_path, capsys):
    options = ['--optim.warmup=0.9', '--model.depth=1', '--save-every=1', '--log-every=1']
    assert tiny('--out', str(tmp_path), *options, *wild) == 1
    err = capsys.readouterr().err
    assert says in err and err.count('\n') == 1
    assert f'the last good checkpoint is {tmp_path}/checkpoints/last/1:' in err
    assert [row['step'] for row in read_rows(tmp_path / 'metrics.jsonl')] == [1]
    for place in (tmp_path / 'checkpoints').glob('*/*'):
        assert place.name == '1'
        for name, array in arrays(place).items():
            assert np.isfinite(array).all() and np.abs(array).max(initial=0) < 10, name


def test_what_gives_no_finite_loss_is_not_saved():
    """Parameters of ordinary size can do so, too."""
    config = parse('digits', TINY)[0]
    setup = set_up(config)
    state = setup.initial()
    batch: Any = {'image': np.zeros((64, 16, 16, 1), np.uint8), 'label': np.zeros(64, np.int32)}
    check_state = partial(check_sound, setup, batch=batch, rows=range(64), size=64, step=7)
    check_state(state, looked=False)
    broken = state.params['mlp_head'] | {'bias': jnp.full(10, jnp.nan)}
    with pytest.raises(Diverged, match='step 7 has made parameters or moments that are not finite'):
        check_state(state.replace(params={**state.params, 'mlp_head': broken}), looked=True)
    large = jax.tree.map(lambda x: 9e3 * jnp.ones_like(x), state.params)
    silent = dataclasses.replace(setup, eval_step=lambda state, batch: ({'loss': np.float32(np.inf)}, 1.0))
    with pytest.raises(Diverged, match='the parameters after step 7 have a loss of inf'):
        check_sound(silent, state.replace(params=large), batch, range(64), 64, 7, looked=False)
