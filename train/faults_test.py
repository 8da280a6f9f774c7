"""What goes wrong with processes, disks and folders: nothing that was saved is lost, and the message is one line.

docs/faults.md lists all cases with their tests.
"""

import errno
import os
import random
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from train.conftest import ROOT, assert_same_run, copy_unfinished, number_in, wait_for
from train.folder import locked
from train.log import read_rows

# Ends like a power cut: at a random operation on a file of the run (inside saves, renames, the writing of rows), or
# at a random time.
DYING = """
import os, signal, sys
from train.cli import main

operations, seconds, folder = int(os.environ['OPERATIONS']), float(os.environ['SECONDS']), os.environ['FOLDER']

def count(event, args):
    global operations
    if event in ('open', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.remove', 'shutil.rmtree', 'os.truncate') \\
            and any(isinstance(arg, str) and arg.startswith(folder) for arg in args):
        operations -= 1
        if operations == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
if seconds:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, seconds)
try:
    code = main(sys.argv[1:])
finally:
    # an interpreter that ends has no handlers any more: the alarm itself would kill it
    signal.setitimer(signal.ITIMER_REAL, 0)
sys.exit(code)
"""


@pytest.mark.exhaustive
def test_killed_at_random_moments_it_ends_with_the_same_bits(train, whole, tmp_path):
    moments, dice = 20, random.Random(7)
    kills, finished = 0, 0
    while kills < moments:
        folder = tmp_path / f'run_{finished}'
        moment = dict(OPERATIONS=str(dice.randint(1, 80)), SECONDS='0')
        if kills % 4 == 3:
            moment = dict(OPERATIONS='0', SECONDS=f'{dice.uniform(1, 6):.3f}')
        code, _, err = train('--out', str(folder), program=('-c', DYING), FOLDER=str(folder), **moment)
        if code == -signal.SIGKILL:
            kills += 1
            continue
        # Once it got through; the next kills are of a new run.
        assert (code, err) == (0, '')
        assert_same_run(folder, whole[0])
        finished += 1
    code, _, err = train('--out', str(folder))
    assert (code, err) == (0, '')
    assert_same_run(folder, whole[0])


# From a save on, no file may grow: what a full disk looks like from inside.
FULL = """
import resource, signal, sys
from train import checkpoints
from train.cli import main

save = checkpoints.Checkpoints.save
def full(self, state, meta):
    if meta['step'] == 12:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    save(self, state, meta)
checkpoints.Checkpoints.save = full
sys.exit(main(sys.argv[1:]))
"""


def one_line(err: str) -> str:
    assert err.startswith('error: ') and err.count('\n') == 1, err
    return err


@pytest.mark.exhaustive
def test_a_full_disk_is_one_message_and_loses_nothing(train, whole, tmp_path):
    run = ['--out', str(tmp_path / 'run')]
    code, _, err = train(*run, program=('-c', FULL))
    assert code == 2
    message = one_line(err)
    assert 'could not be written' in message or 'File too large' in message
    assert 'untouched' in message and 'the same command continues' in message
    code, out, err = train(*run)
    assert (code, err) == (0, '') and re.search(r'continuing after step (4|8)\n', out)
    assert_same_run(tmp_path / 'run', whole[0])


def test_rows_that_cannot_be_written_are_one_message(tiny, whole, tmp_path, capsys):
    run = copy_unfinished(whole, tmp_path)
    (tmp_path / 'metrics.jsonl').unlink()
    (tmp_path / 'metrics.jsonl').mkdir()
    assert tiny('--out', run) == 2
    message = one_line(capsys.readouterr().err)
    assert 'metrics.jsonl: Is a directory; what was saved before is untouched' in message


def test_a_folder_that_cannot_be_made_is_one_message(tiny, capsys):
    assert tiny('--out', '/proc/run') == 2
    assert '--out /proc/run cannot be written' in one_line(capsys.readouterr().err)


def test_data_that_are_not_there_leave_nothing_behind(tiny, tmp_path, capsys):
    assert tiny('--data.name=mnist', '--data.path', str(tmp_path), '--out', str(tmp_path / 'run')) == 2
    assert 'has no train-images-idx3-ubyte' in one_line(capsys.readouterr().err)
    assert not (tmp_path / 'run').exists()


def raising(error: Exception):
    def allocate(*_):
        raise error

    return allocate


@pytest.mark.parametrize(
    'allocate, said',
    [
        (jnp.zeros, 'RESOURCE_EXHAUSTED: .*'),
        (np.ones, 'Unable to allocate .*'),
        (raising(JaxRuntimeError('INTERNAL: Error preparing computation: Out of memory allocating 9 bytes.')), 'INT.*'),
        (raising(JaxRuntimeError('INTERNAL: std::bad_alloc\nmore')), 'INTERNAL: std::bad_alloc'),
        (raising(OSError(errno.ENOMEM, 'Cannot allocate memory')), '.*Cannot allocate memory'),
        (raising(MemoryError()), 'MemoryError'),
    ],
    ids=['device', 'host', 'cpu', 'library', 'system', 'python'],
)
def test_too_little_memory_is_one_message(allocate, said, tiny, tmp_path, monkeypatch, capsys):
    def run(config):
        jax.block_until_ready(allocate(2**50, np.uint8))  # more than there are addresses

    monkeypatch.setattr('train.loop.run', run)
    assert tiny('--out', str(tmp_path / 'run')) == 2
    err = capsys.readouterr().err
    assert re.match(rf'error: not enough memory \({said}\): try a smaller batch_size', err)
    assert err.count('\n') == 1


def test_two_processes_cannot_train_in_one_folder(tiny, whole, tmp_path, capsys):
    run = copy_unfinished(whole, tmp_path)
    with locked(tmp_path):
        assert tiny('--out', run) == 2
    assert f'another process is training in {tmp_path}' in one_line(capsys.readouterr().err)
    with locked(tmp_path):
        pass


# Seconds between the first import and the first step; the last one, with a worker, is in training on a quick machine.
STARTING = [(0, 1.5)]
FURTHER = [(0, 0.2), (0, 0.8), (0, 2.5), (0, 4.0), (1, 2.5), (1, 4.0)]


@pytest.mark.parametrize(
    'workers, seconds', [*STARTING, *(pytest.param(*moment, marks=pytest.mark.exhaustive) for moment in FURTHER)]
)
def test_ctrl_c_while_starting_is_silent(start, workers, seconds, tmp_path):
    """Sent to all processes, as a terminal does."""
    process = start(
        f'--out={tmp_path / "run"}', '--steps=100000', f'--loader.workers={workers}', start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 0)
    assert 'Traceback' not in err and 'KeyboardInterrupt' not in err


# SIGTERM in a run is sent by loop_test.py, too
@pytest.mark.parametrize(
    'number',
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive, id='SIGTERM'),
        pytest.param(signal.SIGINT, id='Ctrl-C'),
    ],
)
def test_a_signal_saves_and_says_how_to_continue(start, number, tmp_path):
    process = start('--out', str(tmp_path / 'run'), '--steps=100000')
    wait_for(lambda: read_rows(tmp_path / 'run' / 'metrics.jsonl'), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, '')
    step = number_in(r'stopped after step (\d+) of 100000: the same command continues from there', out)
    assert (tmp_path / 'run' / 'checkpoints' / 'last' / str(step)).is_dir()


def test_every_case_of_the_table_has_its_test():
    """The last column of docs/faults.md names a test for each row."""
    lines = (ROOT / 'docs' / 'faults.md').read_text().splitlines()
    rows = [line for line in lines if line.startswith('| ') and not line.startswith('| case ')]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r'`([\w/]+\.py)::(\w+)`', row)
        assert named, row
        for file, test in named:
            assert f'def {test}(' in (ROOT / file).read_text(), f'{file} has no {test}'
