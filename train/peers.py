"""The connections between the processes of a run, and what ends them together."""

import contextlib
import json
import multiprocessing
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jax.errors import JaxRuntimeError

from train.commands.command import complain
from train.errors import Diverged, UserError, in_a_line

# Exit code of a run that a supervisor is to start again: EX_TEMPFAIL of sysexits.h.
AGAIN = 75
# Heartbeats in the time after which a process that sends none counts as lost.
BEATS = 10
# Seconds for which an error that may be a consequence waits: a collective of JAX fails at the same moment as the
# connection to a process that died, which is then the reason.
GRACE = 5.0
# Seconds in which those who are told of the end are expected to close their connection.
FAREWELL = 5

Message = dict[str, Any]


class Connection:
    """Messages, each a line of JSON, over a socket.

    Attributes:
      inbox: messages that have arrived and were not taken out.
      open: whether more can come.
      seen: when something last came, by the monotonic clock.
    """

    def __init__(self, sock: socket.socket):
        sock.settimeout(FAREWELL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket, self.open, self.seen = sock, True, time.monotonic()
        self.inbox = deque[Message]()
        self._rest = b''

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends a message; that nobody is there any more is noticed by whoever reads."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b'\n')

    def receive(self) -> None:
        """Reads a socket that is ready into `inbox`; `open` is False afterwards if that was the end."""
        try:
            data = self.socket.recv(2**16)
        except OSError:
            data = b''
        self.seen = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b'\n')
        try:
            messages = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            messages, data = [], b''
        if not data or len(self._rest) > 2**20 or not all(isinstance(message, dict) for message in messages):
            self.open = False
        self.inbox.extend(message for message in messages if isinstance(message, dict))

    def close(self) -> None:
        self.open = False
        self.socket.close()


@dataclass
class End:
    """Why all processes end.

    Attributes:
      process: whose reason it is.
      code: exit code of all.
      text: the line.
    """

    process: int
    code: int
    text: str


@dataclass
class Peers:
    """The other processes, seen from this one.

    Attributes:
      process: which one this is.
      processes: how many there are.
      connections: of process 0 to all others; of the others to process 0.
      hosts: name of the machine of each process.
      silence: seconds without a heartbeat after which a process counts as lost.
    """

    process: int
    processes: int
    connections: dict[int, Connection]
    hosts: dict[int, str]
    silence: float
    _done: set[int] = field(default_factory=set)
    _all_done: threading.Event = field(default_factory=threading.Event)
    _mine: tuple[float, End, BaseException] | None = None

    def __post_init__(self) -> None:
        threading.Thread(target=self._watch, daemon=True, name='hosts').start()

    def finish(self) -> None:
        """Waits until every process has come to its end."""
        self._done.add(self.process)
        if self.process:
            self.connections[0].send(done=True)
        self._all_done.wait()

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process and the others: with the error or, if that is why it came to this, as one is lost."""
        expected = isinstance(error, UserError | Diverged)
        if expected:
            code, text = 2 if isinstance(error, UserError) else 1, str(error)
        elif isinstance(error, KeyboardInterrupt):
            code, text = 130, 'it was interrupted'
        else:  # of devices and networks, which may do better next time, or of programs, which will not
            code, text = AGAIN if isinstance(error, JaxRuntimeError) else 1, f'it failed: {in_a_line(error)}'
        caused = not expected or error.__cause__ is not None
        self._mine = time.monotonic() + (GRACE if caused else 0), End(self.process, code, text), error
        while True:
            time.sleep(1)  # until the other thread ends the process

    def _watch(self) -> None:
        try:
            self._attend()
        except Exception:  # without this thread the others would wait for ever
            traceback.print_exc()
            _exit(1)

    def _attend(self) -> None:
        """Reads, sends signs of life, and ends the process: no other thread does, so that there is one reason."""
        beat = self.silence / BEATS
        with selectors.DefaultSelector() as selector:
            for process, connection in self.connections.items():
                selector.register(connection, selectors.EVENT_READ, process)
                self._take(process)
            sent = looked = 0.0
            while not self._all_done.is_set():
                for key, _ in selector.select(min(beat, 0.1)):
                    self.connections[key.data].receive()
                    self._take(key.data)
                now = time.monotonic()
                if now - looked > self.silence / 2:  # this process was held up itself, and has heard nobody
                    for connection in self.connections.values():
                        connection.seen = now
                looked = now
                if now - sent > beat:
                    sent = now
                    for connection in self.connections.values():
                        connection.send(beat=True)
                for process, connection in self.connections.items():
                    if now - connection.seen > self.silence:
                        self._end(self._lost(process, f'no heartbeat for {self.silence:g} s'))
                if self._mine is not None and now > self._mine[0]:
                    self._end(*self._mine[1:])
                if not self.process and len(self._done) == self.processes:
                    for connection in self.connections.values():
                        connection.send(bye=True)
                    self._all_done.set()

    def _take(self, process: int) -> None:
        """Acts on what a process has sent."""
        connection = self.connections[process]
        while connection.inbox:
            message = connection.inbox.popleft()
            if 'end' in message:
                self._end(End(**message['end']))
            elif 'done' in message:
                self._done.add(process)
            elif 'bye' in message:
                self._all_done.set()
                return
        if not connection.open:
            self._end(self._lost(process, 'its connection closed'))

    def _lost(self, process: int, how: str) -> End:
        text = f'lost ({how}); the same command on all hosts continues from the newest checkpoint'
        return End(process, AGAIN, text)

    def _end(self, end: End, error: BaseException | None = None) -> NoReturn:
        """Tells the others and ends; process 0 last, since without it they would not hear the reason."""
        me = self.process
        told = [connection for process, connection in self.connections.items() if process != end.process]
        if not me or end.process == me:
            for connection in told:
                connection.send(end=vars(end))
            wait_until_closed(told)
        if end.process != me:
            complain(UserError(f'process {end.process} on {self.hosts[end.process]}: {end.text}'))
        elif isinstance(error, UserError | Diverged):
            complain(error)
        elif not isinstance(error, KeyboardInterrupt):
            traceback.print_exception(error)
        _exit(end.code)


def ready(ends: Iterable[Connection | socket.socket], seconds: float) -> list[Connection | socket.socket]:
    """Those of which something can be read, waiting up to some time for the first."""
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ, end)
        return [key.data for key, _ in selector.select(seconds)]


def is_there(connection: Connection) -> bool:
    """Whether a connection is open still, where its end may have arrived and not been read yet."""
    while connection.open and ready([connection], 0):
        connection.receive()
    return connection.open


def wait_until_closed(connections: list[Connection]) -> None:
    """By the other side, for a few seconds."""
    until = time.monotonic() + FAREWELL
    while (left := {c for c in connections if c.open}) and time.monotonic() < until:
        for connection in left.intersection(ready(left, 0.1)):
            connection.receive()


def _exit(code: int) -> NoReturn:
    """At once: collectives, barriers and destructors of JAX would wait for those who are gone."""
    for child in multiprocessing.active_children():
        child.kill()
    if sys.stdout.isatty():
        sys.stdout.write('\x1b[?25h')  # the cursor, which a progress bar hides
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
