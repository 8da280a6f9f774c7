"""Waiting for images is noticed when the device has nothing to do, and only then."""

import time

import jax
import pytest

from train.clock import ROWS, Clock
from train.config import Loader


class Step:
    """What a device gives back, after as long as it takes."""

    def __init__(self, seconds: float):
        self.ready = time.monotonic() + seconds

    def block_until_ready(self):
        time.sleep(max(0.0, self.ready - time.monotonic()))
        return self


def rows(batch_seconds: float, step_seconds: float, steps: int = 8 * ROWS) -> tuple[list[dict], list[str]]:
    """Rows of every fourth step, and what was said."""
    said: list[str] = []
    clock = Clock(8, Loader(threads=2), said.append)

    def batches():
        for index in range(steps + 1):
            time.sleep(batch_seconds)
            yield index

    found, before = [], None
    for index in clock.batches(batches()):
        numbers = Step(step_seconds)
        # As in the loop: the step before is looked at while this one runs.
        if before is not None:
            jax.block_until_ready(before)
        before = numbers
        clock.tick(numbers)
        if index and index % 4 == 0:
            found.append(clock.row())
    return found, said


@pytest.mark.parametrize('batch, step, low, high', [(0.04, 0.0, 0.8, 1.0), (0.04, 0.02, 0.2, 0.8)])
def test_a_slow_source_is_named_once(batch, step, low, high):
    found, said = rows(batch, step)
    assert len(found) == 2 * ROWS and all(low <= row['waited'] <= high for row in found)
    assert all(20 < row['images_per_second'] < 210 for row in found)
    (line,) = said
    assert 'waits for images' in line and '--loader.threads (now 2)' in line and '--loader.workers (now 0)' in line


def test_what_is_prepared_while_the_device_computes_costs_nothing():
    found, said = rows(batch_seconds=0.02, step_seconds=0.04)
    assert all(row['waited'] < 0.2 for row in found) and not said


def test_no_step_no_row():
    assert Clock(8, Loader(), print).row() == {}
