"""Tests of the trainer: small runs, most of them as a stranger would start them."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from conftest import FLAGS
from train.clock import SPEED
from train.log import read_rows

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    '--model.patch-size=8', '--model.dim=16', '--model.depth=2', '--model.heads=2', '--model.dim-head=8',
    '--model.mlp-dim=24', '--model.dropout=0.1', '--optim.ema=0.9', '--steps=24', '--eval-every=6',
    '--save-every=4', '--log-every=3', '--no-plots',
]  # fmt: skip


@pytest.fixture(autouse=True)
def single_precision():
    """Whatever the tests of other folders have set."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope='session')
def start(tmp_path_factory):
    """Starts `python -m train digits`, tiny, on one device, as another process."""
    without_torch = tmp_path_factory.mktemp('without_torch')
    # tensorboardX imports torch where it finds it, which takes longer than a tiny run.
    (without_torch / 'torch.py').write_text('raise ImportError')
    own = {
        'JAX_NUM_CPU_DEVICES': '1',
        'XLA_FLAGS': ' '.join(FLAGS),
        'PYTHONPATH': str(without_torch),
    }

    def start(
        *args: str, program: tuple[str, ...] = ('-m', 'train'), start_new_session: bool = False, **environment: str
    ) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *program, 'digits', *TINY, *args],
            cwd=ROOT,
            env={**os.environ, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=start_new_session,
        )

    return start


@pytest.fixture(scope='session')
def train(start):
    """Runs it to its end: (exit code, standard output, standard error)."""

    def train(*args: str, **how) -> tuple[int, str, str]:
        process = start(*args, **how)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return train


@pytest.fixture(scope='session')
def whole(train, tmp_path_factory):
    """A run that nothing disturbed, two of its steps traced: its folder, and what it said."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    code, out, err = train('--out', str(folder), '--profile=2')
    assert (code, err) == (0, '')
    return folder, out


@pytest.fixture
def tiny():
    """Runs it in this process, on eight devices: the exit code."""
    from train.cli import main

    def tiny(*args: str) -> int:
        return main(['digits', *TINY, *args])

    return tiny


@pytest.fixture(scope='session')
def finished(tmp_path_factory) -> Path:
    """The folder of a whole tiny run, for those who only look."""
    from train.cli import main

    folder = tmp_path_factory.mktemp('finished') / 'run'
    with jax.enable_x64(False):
        assert main(['digits', *TINY, '--eval-every=12', '--save-every=24', '--out', str(folder)]) == 0
    return folder


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by its path, whatever devices it was written by."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(checkpoint / 'state').item_metadata.tree
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(checkpoint / 'state', restore_args=whole)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}


def number_in(pattern: str, text: str) -> int:
    """What the group of a pattern finds."""
    found = re.search(pattern, text)
    assert found, text
    return int(found[1])


def rows_without_speed(folder: Path) -> list[dict]:
    """`metrics.jsonl` without what differs from run to run."""
    return [
        {key: value for key, value in row.items() if key not in SPEED} for row in read_rows(folder / 'metrics.jsonl')
    ]


def assert_same_run(folder: Path, whole: Path) -> None:
    """The newest and the best checkpoint have the same bits, and the rows the same numbers."""
    for kind in ('last', 'best'):
        (step,) = {max(map(int, os.listdir(run / 'checkpoints' / kind))) for run in (folder, whole)}
        ours, theirs = (arrays(run / 'checkpoints' / kind / str(step)) for run in (folder, whole))
        assert ours.keys() == theirs.keys() and len(ours) > 30
        for name, array in ours.items():
            assert array.tobytes() == theirs[name].tobytes(), name
    assert rows_without_speed(folder) == rows_without_speed(whole)


def wait_for(condition: Callable, process: subprocess.Popen, seconds: float = 90) -> None:
    """Waits for something that a process must do while it lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.002)


def copy_unfinished(whole: tuple[Path, str], folder: Path) -> str:
    """The whole run as it was before its last words."""
    shutil.copytree(whole[0] / 'checkpoints', folder / 'checkpoints')
    for name in ('config.json', 'metrics.jsonl'):
        shutil.copy(whole[0] / name, folder / name)
    return str(folder)
