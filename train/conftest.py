"""Tests of the trainer: small runs, most of them as a stranger would start them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    '--model.patch-size=8', '--model.dim=16', '--model.depth=2', '--model.heads=2', '--model.dim-head=8',
    '--model.mlp-dim=24', '--model.dropout=0.1', '--optim.ema=0.9', '--steps=24', '--eval-every=6',
    '--save-every=4', '--log-every=3', '--no-plots',
]  # fmt: skip

# Compiles in half the time, and lets eight devices on a busy machine wait for each other.
FAST = (
    '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true '
    '--xla_cpu_collective_call_terminate_timeout_seconds=600'
)

os.environ.setdefault('XLA_FLAGS', FAST)
if jax.config.jax_num_cpu_devices != 8:  # type: ignore[attr-defined]
    jax.config.update('jax_num_cpu_devices', 8)


@pytest.fixture(scope='session', autouse=True)
def compiled(request):
    """Keeps compiled programs from one test session to the next, here and in the processes that tests start."""
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(request.config.cache.mkdir('compiled'))
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


@pytest.fixture(autouse=True)
def single_precision():
    """Whatever the tests of other folders have set."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope='session')
def start(tmp_path_factory, compiled):
    """Starts `python -m train digits`, tiny, on one device, as another process."""
    without_torch = tmp_path_factory.mktemp('without_torch')
    # tensorboardX imports torch where it finds it, which takes longer than a tiny run.
    (without_torch / 'torch.py').write_text('raise ImportError')
    own = {
        'JAX_NUM_CPU_DEVICES': '1',
        'XLA_FLAGS': FAST,
        'PYTHONPATH': str(without_torch),
    }

    def start(*args: str, program: tuple[str, ...] = ('-m', 'train'), **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *program, 'digits', *TINY, *args],
            cwd=ROOT,
            env={**os.environ, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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


@pytest.fixture
def tiny():
    """Runs it in this process, on eight devices: the exit code."""
    from train.cli import main

    def tiny(*args: str) -> int:
        return main(['digits', *TINY, *args])

    return tiny


@pytest.fixture(scope='session')
def finished(tmp_path_factory, compiled) -> Path:
    """The folder of a whole tiny run, for those who only look."""
    from train.cli import main

    folder = tmp_path_factory.mktemp('finished') / 'run'
    with jax.enable_x64(False):
        assert main(['digits', *TINY, '--eval-every=12', '--save-every=24', '--out', str(folder)]) == 0
    return folder


def arrays(checkpoint: Path) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, by its path."""
    state = ocp.StandardCheckpointer().restore(checkpoint / 'state')
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}
