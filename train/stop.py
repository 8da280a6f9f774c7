"""SIGTERM and Ctrl-C: a wish to stop, granted at the end of the step."""

import signal


class Stop:
    """Inside `with Stop() as stop`, the first signal sets `stop.requested`; a second one ends at once."""

    def __init__(self):
        self.requested = False
        self._before = {}

    def __enter__(self) -> 'Stop':
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
