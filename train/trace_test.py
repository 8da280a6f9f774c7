"""`--profile` traces the steps that it says, and no run fails for its trace."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from train.trace import BEFORE, Trace


def events(folder: Path) -> list[str]:
    """Names of what a trace has."""
    (path,) = folder.rglob('*.trace.json.gz')
    return [event.get('name', '') for event in json.loads(gzip.decompress(path.read_bytes()))['traceEvents']]


@pytest.mark.exhaustive
def test_a_run_writes_a_trace_of_its_steps(whole):
    run, out = whole
    assert f'traced 2 steps: {run / "profile"} (tensorboard --logdir' in out
    assert sum(name == 'train' for name in events(run / 'profile')) == 2
    assert list((run / 'profile').rglob('*.xplane.pb'))


@pytest.fixture
def step():
    computed = jax.jit(lambda x: x @ x)
    return lambda: computed(jnp.ones((8, 8)))


def test_a_run_that_ends_within_its_trace_writes_what_there_is(step, tmp_path):
    said: list[str] = []
    trace = Trace(tmp_path, steps=100, say=said.append)
    for _ in range(BEFORE + 3):
        trace.tick(step())
    trace.close()
    trace.close()
    assert [line.partition(':')[0] for line in said] == ['traced 3 steps'] and events(tmp_path / 'profile')


@pytest.mark.parametrize('taken', range(BEFORE + 1))
def test_a_run_that_ends_before_its_trace_says_so(step, tmp_path, taken):
    said: list[str] = []
    trace = Trace(tmp_path, steps=1, say=said.append)
    for _ in range(taken):
        trace.tick(step())
    trace.close()
    assert said == [f'no trace: the run had fewer than {BEFORE + 1} steps left']


def test_without_steps_nothing_is_traced(step, tmp_path):
    said: list[str] = []
    trace = Trace(tmp_path, steps=0, say=said.append)
    for _ in range(BEFORE + 2):
        trace.tick(step())
    trace.close()
    assert not said and not (tmp_path / 'profile').exists()


def test_a_trace_that_cannot_be_written_ends_no_run(step, tmp_path):
    (tmp_path / 'profile').write_text('a file in its place')
    said: list[str] = []
    trace = Trace(tmp_path, steps=1, say=said.append)
    for _ in range(BEFORE + 2):
        trace.tick(step())
    (line,) = said
    assert f'the trace could not be written to {tmp_path / "profile"}: ' in line
