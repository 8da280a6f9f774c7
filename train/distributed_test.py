"""Runs of several processes on this machine, as they are on several hosts: killed, stopped, refused, continued."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.checkpoints import check, steps_in
from train.conftest import arrays, assert_same_run, number_in, rows_without_speed, wait_for
from train.hosts_test import free_port
from train.log import read_rows
from train.loop_test import DYING
from train.peers import AGAIN

# Outcomes of the processes: exit code, standard output and standard error.
Ends = list[tuple[int, str, str]]
# A run that goes on until something ends it.
ENDLESS = ('--steps=100000', '--eval-every=100000', '--save-every=100000', '--log-every=1')
# All arrays are split where the mesh asks for it, small as they are.
SPLIT = ('--mesh.fsdp-min-size=1',)
WITHIN = 60


@pytest.fixture
def several(start):
    """Starts as many processes of one run. `own`: arguments of some of them; `dying`: what one of them dies of."""
    started: list[subprocess.Popen] = []

    def several(
        count: int,
        folder: Path,
        *args: str,
        devices: int = 1,
        own: Mapping[int, tuple[str, ...]] | None = None,
        dying: tuple[int, dict[str, str]] | None = None,
    ) -> list[subprocess.Popen]:
        place = f'--mesh.coordinator=127.0.0.1:{free_port()}'
        processes = []
        for process in range(count):
            how: dict[str, Any] = {'JAX_NUM_CPU_DEVICES': str(devices)}
            if dying and dying[0] == process:
                how |= {'program': ('-c', DYING), **dying[1]}
            processes.append(
                start('--mesh.distributed', place, f'--mesh.processes={count}', f'--mesh.process={process}',
                      f'--out={folder}', *args, *(own or {}).get(process, ()), **how)
            )  # fmt: skip
        started.extend(processes)
        return processes

    yield several
    for process in started:
        process.kill()
        process.communicate()


def ends(processes: list[subprocess.Popen], seconds: float = 120) -> Ends:
    """Waits until all of them have ended."""
    until, found = time.monotonic() + seconds, []
    for process in processes:
        out, err = process.communicate(timeout=max(until - time.monotonic(), 1))
        found.append((process.returncode, out, err))
    return found


def steps_of(folder: Path) -> list[int]:
    return [int(row['step']) for row in read_rows(folder / 'metrics.jsonl')]


def wait_for_rows(folder: Path, processes: list[subprocess.Popen], after: int = 0) -> None:
    wait_for(lambda: max(steps_of(folder), default=0) > after, processes[0])


def assert_lost(end: tuple[int, str, str], process: int, how: str = 'its connection closed') -> None:
    """It ends to be started again, with one line that names who is lost."""
    code, _, err = end
    assert (code, err.count('\n')) == (AGAIN, 1), err
    assert f'error: process {process} on ' in err and f': lost ({how}); the same command on all hosts' in err


def assert_finished(outcome: Ends) -> None:
    for code, _, err in outcome:
        assert err == ''
        assert code == 0


def assert_whole(folder: Path) -> None:
    """Every checkpoint is."""
    for kind in ('last', 'best'):
        for step in steps_in(folder / 'checkpoints' / kind):
            assert check(folder / 'checkpoints' / kind / str(step))


# ---------------------------------------------------------------------- two processes, always


def test_two_processes_save_together_at_a_signal_and_end_together_at_a_death(several, tmp_path):
    folder = tmp_path / 'run'
    processes = several(2, folder, *ENDLESS)
    wait_for_rows(folder, processes, after=2)
    processes[1].send_signal(signal.SIGTERM)
    outcome = ends(processes, WITHIN)
    assert_finished(outcome)
    out = outcome[0][1]
    stopped = number_in(r'stopped after step (\d+) of 100000: the same command continues from there', out)
    assert '2 cpu devices' in out and steps_in(folder / 'checkpoints' / 'last') == [stopped]

    processes = several(2, folder, *ENDLESS)
    wait_for_rows(folder, processes, after=stopped)
    processes[1].kill()
    end, _ = ends(processes, WITHIN)
    assert f'continuing after step {stopped}\n' in end[1]
    assert_lost(end, process=1)
    assert_whole(folder)
    rows = [row for row in read_rows(folder / 'metrics.jsonl') if 'slowest_host' in row]
    assert rows and all(0 <= row['host_seconds_min'] <= row['host_seconds_max'] for row in rows)


# ---------------------------------------------------------------------- all kinds of ends


@pytest.mark.exhaustive
def test_whatever_ends_one_ends_all_and_the_same_command_ends_with_the_same_bits(several, tmp_path):
    """One after the other, in one run: in the compiler, in saves, in a step."""
    folder, undisturbed = tmp_path / 'run', tmp_path / 'undisturbed'
    quick = ('--mesh.heartbeat-timeout=5',)

    # While they compile: the folder is there, and no step yet.
    processes = several(2, folder, *quick)
    wait_for(lambda: (folder / 'checkpoints' / 'best').is_dir(), processes[0])
    processes[1].kill()
    assert_lost(ends(processes, WITHIN)[0], 1)
    assert steps_of(folder) == []

    # Within a save of the newest checkpoint, and of the best.
    for dead, where in ((0, {'DIE_IN': 'save', 'DIE_AT': '4'}), (1, {'DIE_IN': 'save_best', 'DIE_AT': '6'})):
        outcome = ends(several(2, folder, *quick, dying=(dead, where)), WITHIN)
        assert outcome[dead][0] == -signal.SIGKILL
        assert_lost(outcome[1 - dead], dead)
        assert_whole(folder)

    # A process that hangs; when it goes on, it finds that the others have given it up.
    processes = several(2, folder, *quick)
    wait_for_rows(folder, processes, after=max(steps_of(folder)))
    processes[1].send_signal(signal.SIGSTOP)
    assert_lost(ends(processes[:1], WITHIN)[0], 1, 'no heartbeat for 5 s')
    processes[1].send_signal(signal.SIGCONT)
    assert_lost(ends(processes[1:], WITHIN)[0], 0)
    assert_whole(folder)

    outcome = ends([*several(2, folder), *several(2, undisturbed, '--profile=2')])
    assert_finished(outcome)
    assert_same_run(folder, undisturbed)
    assert f'traced 2 steps: {undisturbed / "profile" / "process_0"} ' in outcome[2][1]
    for process in range(2):
        assert list((undisturbed / 'profile' / f'process_{process}').rglob('*.xplane.pb'))


@pytest.mark.exhaustive
def test_four_processes_read_the_same_data_and_lose_one(several, whole, tmp_path):
    """As two and one do, whose rows they repeat: each element of a batch has its position and its randomness."""
    folder = tmp_path / 'run'
    processes = several(4, folder, '--mesh.fsdp=2', *SPLIT)
    wait_for_rows(folder, processes, after=6)
    processes[2].kill()
    outcome = ends(processes, WITHIN)
    assert outcome[2][0] == -signal.SIGKILL
    for process in (0, 1, 3):
        assert_lost(outcome[process], 2)
    assert_whole(folder)

    outcome = ends(several(2, folder, '--mesh.fsdp=2', *SPLIT))
    assert_finished(outcome)
    assert number_in(r'continuing after step (\d+)', outcome[0][1]) >= 4
    ours, theirs = rows_without_speed(folder), rows_without_speed(whole[0])
    assert [row['step'] for row in ours] == [row['step'] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.exhaustive
def test_checkpoints_move_between_any_numbers_of_processes(several, tiny, whole, tmp_path):
    """Without its best checkpoint, a run that is at its end saves what it has restored as the best: bit for bit."""
    folder = tmp_path / 'run'
    shutil.copytree(whole[0], folder)
    expected = arrays(whole[0] / 'checkpoints' / 'last' / '24')
    last, best = (folder / 'checkpoints' / kind for kind in ('last', 'best'))

    def restored_and_saved(begin: Callable[[], object]) -> None:
        (folder / 'summary.json').unlink()
        shutil.rmtree(best)
        begin()
        found = arrays(best / '24')
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.tobytes() == expected[name].tobytes(), name
        shutil.rmtree(last)
        shutil.copytree(best, last)

    def on(count: int, devices: int, *mesh: str) -> Callable[[], None]:
        def begin() -> None:
            assert_finished(ends(several(count, folder, *SPLIT, *mesh, devices=devices)))

        return begin

    restored_and_saved(on(2, 1, '--mesh.fsdp=2'))
    restored_and_saved(on(4, 2, '--mesh.fsdp=4', '--mesh.tensor=2'))
    restored_and_saved(lambda: tiny('--out', str(folder), *SPLIT, '--mesh.fsdp=8'))


# ---------------------------------------------------------------------- refusals


def assert_refused(outcome: Ends, first: int, said: str) -> None:
    """By one process for all: the same line, and exit code 2."""
    for process, (code, _, err) in enumerate(outcome):
        assert code == 2 and err.count('\n') == 1, err
        assert said in err
        assert (f'error: process {first} on ' in err) == (process != first)


@pytest.mark.exhaustive
def test_what_one_process_refuses_ends_all(several, tmp_path):
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'thesis.tex').touch()
    assert_refused(ends(several(2, foreign)), 0, f"--out {foreign} is no run of this trainer, it holds 'thesis.tex'")
    assert os.listdir(foreign) == ['thesis.tex']

    run, elsewhere = tmp_path / 'run', tmp_path / 'elsewhere'
    here, missing = tmp_path / 'mnist', tmp_path / 'no'
    said = 'is not the folder that process 0 has under this path'
    outcome = ends(several(2, run, own={1: (f'--out={elsewhere}',)}))
    assert_refused(outcome, 1, said)
    assert not elsewhere.exists()

    images = np.zeros((20, 8, 8, 3), np.uint8)
    np.savez(here.with_suffix('.npz'), train_images=images, train_labels=np.arange(20) % 2)
    data = ('--data.name=npz', f'--data.path={here}.npz')
    outcome = ends(several(2, tmp_path / 'data', *data, own={0: (f'--data.path={missing}.npz',)}))
    assert_refused(outcome, 0, str(missing))
    assert not (tmp_path / 'data').exists()


@pytest.mark.exhaustive
def test_an_image_that_one_process_cannot_read_ends_all(several, tmp_path):
    """In the middle of training, from a copy of the data of its own."""
    noise = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in ('a', 'b'):
            (tmp_path / '0' / split / label).mkdir(parents=True)
            for index in range(8):
                image = Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8))
                image.save(tmp_path / '0' / split / label / f'{index}.png')
    shutil.copytree(tmp_path / '0', tmp_path / '1')
    damaged = tmp_path / '1' / 'train' / 'b'
    for path in damaged.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    own = {process: (f'--data.path={tmp_path / str(process)}',) for process in (0, 1)}
    folder = tmp_path / 'run'
    data = ('--data.name=image_folder', '--augment.image-size=8', '--batch-size=8', '--loader.prefetch=1')
    assert_refused(ends(several(2, folder, *data, own=own), WITHIN), 1, str(damaged))


@pytest.mark.exhaustive
def test_a_folder_that_is_in_use_is_refused_by_all(several, start, tmp_path):
    """In use by a job of Slurm, whose variables say all that its processes need."""
    folder = tmp_path / 'run'
    slurm = {'SLURM_JOB_ID': str(random.randrange(10**6)), 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '2'}
    processes = [
        start('--mesh.distributed', f'--out={folder}', *ENDLESS, SLURM_PROCID=rank, SLURM_LOCALID=rank, **slurm)
        for rank in ('0', '1')
    ]
    wait_for_rows(folder, processes)
    assert_refused(ends(several(2, folder, *ENDLESS)), 0, f'another process is training in {folder}')
    processes[0].send_signal(signal.SIGTERM)
    assert [end[0] for end in ends(processes, WITHIN)] == [0, 0]


@pytest.mark.parametrize('process', [0, 1])
def test_who_does_not_come_is_named(several, tmp_path, process):
    """Before JAX, the data and the folder are touched."""
    folder, began = tmp_path / 'run', time.monotonic()
    code, _, err = ends(several(1, folder, '--mesh.processes=2', f'--mesh.process={process}', '--mesh.timeout=1'))[0]
    assert code == 2 and err.count('\n') == 1 and time.monotonic() - began < WITHIN
    said = 'process 1 of 2 did not come within 1 s' if process == 0 else 'process 0 of 2 was not reached at 127.0.0.1:'
    assert f'error: mesh.distributed: {said}' in err
    assert not folder.exists()
