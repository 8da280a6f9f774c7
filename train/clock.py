"""How fast a run is, whether it waits for its images, and for which host it waits."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from train.config import Loader
from train.log import Row

# Part of the time that may be lost before it is worth a word, as the mean over how many rows.
MUCH, ROWS = 0.25, 3
# What differs between two runs that compute the same.
SPEED = ('images_per_second', 'waited', 'mfu', 'host_seconds_min', 'host_seconds_max', 'slowest_host')


class Clock:
    """Images per second since the last row, and the part of that time in which the device had nothing to do.

    Of several hosts also the seconds per step that each needs apart from waiting for the devices, such as for its
    batches: a step takes as long as the slowest host, and the others wait for it in a collective, where their devices
    seem busy. Compiling, evaluating and saving do not count.

    Args:
      batch_size: images in a step.
      loader: of the run, for the warning.
      say: prints a line.
      fastest: steps per second of devices that are never idle, for the model FLOPs utilisation; None if not known.
    """

    def __init__(self, batch_size: int, loader: Loader, say: Callable[[str], None], fastest: float | None = None):
        self._batch_size, self._loader, self._say, self._fastest = batch_size, loader, say, fastest
        self._since, self._steps, self._warm = 0.0, 0, False
        self._idle, self._blocked, self._parts, self._warned = 0.0, 0.0, deque[float](maxlen=ROWS), False
        self._watch = ThreadPoolExecutor(1, thread_name_prefix='clock')
        self._finished: Future[float] | None = None

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches. Waiting for one is time lost only while the device has finished all that it was given."""
        try:
            while True:
                asked = time.monotonic()
                batch = next(batches, None)
                came = time.monotonic()
                if self._finished is not None and self._finished.done():
                    self._idle += came - max(asked, self._finished.result(), self._since)
                if batch is None:
                    return
                yield batch
        finally:
            self._watch.shutdown(wait=False)

    def tick(self, numbers: Any) -> None:
        """After each step has begun, with what it will give."""
        if self._warm:
            self._steps += 1
        else:
            jax.block_until_ready(numbers)
            self._warm = True
            self.restart()
        self._finished = self._watch.submit(_when_ready, numbers)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for the devices."""
        began = time.monotonic()
        yield
        self._blocked += time.monotonic() - began

    def restart(self) -> None:
        """Forgets what was measured since the last row."""
        self._since, self._steps, self._idle, self._blocked = time.monotonic(), 0, 0.0, 0.0

    def row(self) -> Row:
        """The numbers since the last row, and one warning in the run; empty if there was no whole step to measure.

        Every host must ask: `waited` is that of the host that waited longest.
        """
        steps, seconds, idle = self._steps, time.monotonic() - self._since, self._idle
        own = max(seconds - self._blocked, 0.0)
        self.restart()
        if not steps:
            return {}
        idles, owns = _of_hosts(min(max(idle / seconds, 0.0), 1.0), own / steps).T
        part, waiting, slowest = float(idles.max()), int(idles.argmax()), int(owns.argmax())
        self._parts.append(part)
        mean = sum(self._parts) / ROWS
        if mean > MUCH and len(self._parts) == ROWS and not self._warned:
            self._warned = True
            where = f'of process {waiting} ' if len(idles) > 1 else ''
            self._say(
                f'the device {where}waits for images {100 * mean:.0f} % of the time: try more --loader.threads (now '
                f'{self._loader.threads}) or --loader.workers (now {self._loader.workers}), smaller images in the '
                'files, or less augmentation'
            )
        row: Row = {'images_per_second': round(steps * self._batch_size / seconds, 1), 'waited': round(part, 3)}
        if self._fastest is not None:
            row['mfu'] = round(steps / seconds / self._fastest, 4)
        if len(owns) > 1:
            row['host_seconds_min'], row['host_seconds_max'] = round(float(owns.min()), 4), round(float(owns.max()), 4)
            row['slowest_host'] = slowest
        return row


def _of_hosts(*values: float) -> np.ndarray:
    """The values of all hosts: `[hosts values]`."""
    own = np.array(values, np.float32)
    return own[None] if jax.process_count() == 1 else np.asarray(process_allgather(own))


def _when_ready(numbers: Any) -> float:
    jax.block_until_ready(numbers)
    return time.monotonic()
