"""`--profile STEPS`: what the devices and the host do in a few steps, for TensorBoard or Perfetto."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# Steps of a session before the traced ones: the first compiles, the second still fills the queues.
BEFORE = 2


class Trace:
    """Traces some steps of a session with JAX's profiler.

    Args:
      folder: of the run; the trace is in its `profile`, of several processes each in its own folder there.
      steps: how many; 0: none.
      say: prints a line.
    """

    def __init__(self, folder: Path, steps: int, say: Callable[[str], None]):
        self._folder = folder / 'profile'
        if jax.process_count() > 1:
            self._folder /= f'process_{jax.process_index()}'
        self._steps, self._say, self._seen, self._on = steps, say, 0, False

    def tick(self, numbers: Any) -> None:
        """After each step has begun, with what it will give."""
        if not self._steps:
            return
        self._seen += 1
        if self._seen in (BEFORE, BEFORE + self._steps):
            jax.block_until_ready(numbers)
        if self._seen == BEFORE:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif self._seen == BEFORE + self._steps:
            self.close()

    def close(self) -> None:
        """Writes what was traced, and says where."""
        if not self._steps:
            return
        steps, self._steps = min(self._seen - BEFORE, self._steps), 0
        if steps < 1:
            self._say(f'no trace: the run had fewer than {BEFORE + 1} steps left')
        if not self._on:
            return
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:  # the run is worth more than its trace
            self._say(f'the trace could not be written to {self._folder}: {error}')
            return
        if steps > 0:
            self._say(
                f'traced {steps} step{"s" if steps > 1 else ""}: {self._folder} (tensorboard --logdir, with the plugin '
                'xprof, or its trace.json.gz in ui.perfetto.dev)'
            )
