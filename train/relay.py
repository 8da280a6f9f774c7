"""A port of this process that leads to a service elsewhere, and stays open when that is gone."""

import errno
import os
import socket
import threading
import time

# Seconds between attempts to reach a service that does not listen yet.
AGAIN = 0.1


class Relay:
    """Forwards connections to `127.0.0.1:port` to a service.

    JAX aborts a process in C++ as soon as its connection to the coordination service closes. Behind a relay the death
    of the service looks like silence, and what happens then is decided in Python.

    Args:
      service: host and port.
      timeout: seconds within which the service will listen.
    """

    def __init__(self, service: tuple[str, int], timeout: float):
        self._service, self._timeout = service, timeout
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port: int = self._listener.getsockname()[1]
        _start(self._accept)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            _start(self._connect, client)

    def _connect(self, client: socket.socket) -> None:
        end = time.monotonic() + self._timeout
        while True:
            try:
                service = connect(*self._service, timeout=self._timeout)
                break
            except OSError:
                if time.monotonic() > end:
                    return
                time.sleep(AGAIN)
        service.settimeout(None)
        for end_of in (client, service):
            end_of.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _start(_forward, service, client)
        _forward(client, service)
        service.close()


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to somebody who listens.

    Raises:
      OSError: nobody does.
    """
    found = socket.create_connection((host, port), timeout=timeout)
    if found.getsockname() == found.getpeername():
        # Where nobody listens at a port of this host, TCP may choose that port as the sender's, and meet itself.
        found.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return found


def _start(function, *args) -> None:
    threading.Thread(target=function, args=args, daemon=True, name='relay').start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends or the target is gone; neither is closed."""
    try:
        while data := source.recv(2**16):
            target.sendall(data)
    except OSError:
        pass
