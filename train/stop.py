"""SIGTERM and Ctrl-C: a wish to stop, granted at the end of the step."""

import os
import signal

import jax


class Stop:
    """Inside `with Stop() as stop`, the first signal sets `stop.requested`; a second one ends at once."""

    def __init__(self):
        self.requested = self._passed_on = False
        self._before = {}

    def __enter__(self) -> 'Stop':
        # Several hosts must stop at the same step: there jax's own notifier listens for SIGTERM, and a handler
        # of ours would silence it.
        alone = jax.process_count() == 1
        for number in (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,):
            self._before[number] = signal.signal(number, self._request if alone else self._pass_on)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def _pass_on(self, number, frame) -> None:
        if self._passed_on:
            raise KeyboardInterrupt
        self._passed_on = True
        os.kill(os.getpid(), signal.SIGTERM)
