"""Waiting for images is noticed when the device has nothing to do, and only then. The time is simulated."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from train import clock
from train.clock import ROWS, Clock
from train.config import Loader
from train.log import describe


class Device:
    """Computes one step after the other, and keeps the time: it stands in for `time` and for the thread that waits."""

    def __init__(self) -> None:
        self.now = self.busy_until = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def begin(self, seconds: float) -> 'Step':
        self.busy_until = max(self.now, self.busy_until) + seconds
        return Step(self, self.busy_until)

    def submit(self, _, step: 'Step') -> 'Step':
        return step

    def shutdown(self, wait: bool) -> None:
        pass


@dataclass
class Step:
    """What a device gives back, and when it is there."""

    device: Device
    ready: float

    def block_until_ready(self) -> 'Step':
        self.device.now = max(self.device.now, self.ready)
        return self

    def done(self) -> bool:
        return self.device.now >= self.ready

    def result(self) -> float:
        return self.ready


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(clock, 'time', device)
    monkeypatch.setattr(clock, 'ThreadPoolExecutor', lambda *_, **__: device)
    return device


def rows(
    device: Device, batch_seconds: float, step_seconds: float, steps: int = 8 * ROWS, fastest: float | None = None
) -> tuple[list, list[str]]:
    """Rows of every fourth step, and what was said."""
    said: list[str] = []
    watch = Clock(8, Loader(threads=2), said.append, fastest)

    def batches():
        for index in range(steps + 1):
            device.sleep(batch_seconds)
            yield index

    found, before = [], None
    for index in watch.batches(batches()):
        numbers = device.begin(step_seconds)
        # As in the loop: the step before is looked at while this one runs.
        if before is not None:
            with watch.waiting():
                jax.block_until_ready(before)
        before = numbers
        watch.tick(numbers)
        if index and index % 4 == 0:
            found.append(watch.row())
    return found, said


@pytest.mark.parametrize('batch, step, waited', [(0.04, 0.0, 1.0), (0.04, 0.01, 0.75), (0.04, 0.02, 0.5)])
def test_a_slow_source_is_named_once(device, batch, step, waited):
    found, said = rows(device, batch, step)
    assert len(found) == 2 * ROWS
    # the first row begins with a wait, for the step that compiles
    assert all(row == {'images_per_second': 200.0, 'waited': pytest.approx(waited)} for row in found[1:])
    (line,) = said
    assert 'waits for images' in line and '--loader.threads (now 2)' in line and '--loader.workers (now 0)' in line


def test_what_is_prepared_while_the_device_computes_costs_nothing(device):
    found, said = rows(device, batch_seconds=0.02, step_seconds=0.04)
    assert len(found) == 2 * ROWS and all(row['waited'] == 0 for row in found[1:]) and not said


def test_a_little_waiting_is_not_worth_a_word(device):
    found, said = rows(device, batch_seconds=0.04, step_seconds=0.036)
    assert all(row['waited'] == pytest.approx(0.1) for row in found[1:]) and not said


def test_of_a_known_chip_the_utilisation_is_in_the_row(device):
    found, _ = rows(device, batch_seconds=0.02, step_seconds=0.04, fastest=100.0)
    assert all(row['mfu'] == pytest.approx(0.25) for row in found[1:])
    assert 'MFU 25 %' in describe(found[1])


def test_a_step_is_over_when_it_is_ready(device):
    step = device.begin(3.0)
    assert clock._when_ready(step) == 3.0


def test_no_step_no_row():
    assert Clock(8, Loader(), print).row() == {}


def test_of_several_hosts_the_slowest_is_in_the_row(device, monkeypatch):
    """Process 1 decodes as long as a step takes, and the others wait for it."""
    monkeypatch.setattr(clock, '_of_hosts', lambda waited, own: np.array([[waited, own], [0.5, 0.04], [0.1, 0.01]]))
    found, said = rows(device, batch_seconds=0.02, step_seconds=0.04)
    for row in found[1:]:
        assert (row['host_seconds_min'], row['host_seconds_max'], row['slowest_host']) == (0.01, 0.04, 1)
        assert row['waited'] == 0.5
    (line,) = said
    assert 'the device of process 1 waits for images 50 % of the time' in line


def test_what_a_host_does_is_what_it_does_not_wait_for(device, monkeypatch):
    monkeypatch.setattr(clock, '_of_hosts', lambda *values: np.array([values, values]))
    found, _ = rows(device, batch_seconds=0.02, step_seconds=0.04)
    assert all(row['host_seconds_max'] == pytest.approx(0.02) for row in found[1:])
