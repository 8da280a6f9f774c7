"""How fast a run is, and whether it waits for its images."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from train.config import Loader
from train.log import Row

# Part of the time that may be lost before it is worth a word, as the mean over how many rows.
MUCH, ROWS = 0.25, 3


class Clock:
    """Images per second since the last row, and the part of that time in which the device had nothing to do.

    Compiling, evaluating and saving do not count.

    Args:
      batch_size: images in a step.
      loader: of the run, for the warning.
      say: prints a line.
      fastest: steps per second of devices that are never idle, for the model FLOPs utilisation; None if not known.
    """

    def __init__(self, batch_size: int, loader: Loader, say: Callable[[str], None], fastest: float | None = None):
        self._batch_size, self._loader, self._say, self._fastest = batch_size, loader, say, fastest
        self._since, self._steps, self._warm = 0.0, 0, False
        self._idle, self._parts, self._warned = 0.0, deque[float](maxlen=ROWS), False
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

    def restart(self) -> None:
        """Forgets what was measured since the last row."""
        self._since, self._steps, self._idle = time.monotonic(), 0, 0.0

    def row(self) -> Row:
        """The numbers since the last row, and one warning in the run; empty if there was no whole step to measure."""
        steps, seconds, idle = self._steps, time.monotonic() - self._since, self._idle
        self.restart()
        if not steps:
            return {}
        part = min(max(idle / seconds, 0.0), 1.0)
        self._parts.append(part)
        mean = sum(self._parts) / ROWS
        if mean > MUCH and len(self._parts) == ROWS and not self._warned:
            self._warned = True
            self._say(
                f'the device waits for images {100 * mean:.0f} % of the time: try more --loader.threads (now '
                f'{self._loader.threads}) or --loader.workers (now {self._loader.workers}), smaller images in the '
                'files, or less augmentation'
            )
        row: Row = {'images_per_second': round(steps * self._batch_size / seconds, 1), 'waited': round(part, 3)}
        if self._fastest is not None:
            row['mfu'] = round(steps / seconds / self._fastest, 4)
        return row


def _when_ready(numbers: Any) -> float:
    jax.block_until_ready(numbers)
    return time.monotonic()
