"""The processes of a run on several hosts: all of them come, or none begins; when one is lost, the others end.

Left to JAX, a process that does not come is minutes of silence and a C++ abort, and so is one that dies. Here every
process has one TCP connection to process 0, `mesh.coordinator`: over it they meet, tell each other that they are alive,
why they end, and that they are done. Only when all have come does each join JAX's coordination service, which process 0
starts on a port of its own.
"""

import contextlib
import errno
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

from train.config import Config, Mesh, check_hosts, differences_of_hosts, to_json
from train.errors import UserError, in_a_line
from train.peers import BEATS, FAREWELL, Connection, Message, Peers, is_there, ready, wait_until_closed
from train.relay import Relay, connect

# Seconds of waiting before a line says for whom, and between further lines.
PATIENCE = 3.0, 30.0
# In the first message, so that a stranger who found the port is not taken for a process of the run.
PROTOCOL = 'vit_flax hosts 1'
# JAX's own signs of life would abort the process in C++; those here come first.
NEVER = 24 * 3600
# Seconds in which all leave JAX's service once all are done.
SHUTDOWN = 30
# Addresses to listen at that stand for all of a host.
EVERYWHERE = '[::]', '0.0.0.0'


@dataclass(frozen=True)
class Place:
    """This process among the others.

    Attributes:
      host, port: where process 0 listens.
      processes: how many there are.
      process: which of them this one is.
      devices: local devices that it takes; None: all.
    """

    host: str
    port: int
    processes: int
    process: int
    devices: tuple[int, ...] | None = None

    @property
    def address(self) -> str:
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


def place_of(mesh: Mesh) -> Place:
    """What the options say and, where they are silent, JAX's detection of TPU pods, Slurm and Open MPI.

    Raises:
      UserError: neither tells, or what they tell cannot be.
    """
    check_hosts(mesh)
    address: Any = mesh.coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS') or None
    processes: Any = mesh.processes
    process: Any = mesh.process
    devices = None
    if None in (address, processes, process):
        address, processes, process, devices = _detected(address, processes, process, mesh.timeout)
    options = {'mesh.coordinator': address, 'mesh.processes': processes, 'mesh.process': process}
    if missing := [name for name, value in options.items() if value is None]:
        raise UserError(
            f'mesh.distributed: no TPU pod, Slurm or Open MPI was found here to tell {", ".join(missing)}: '
            f'give {" and ".join("--" + name for name in missing)}'
        )
    if not 0 <= process < processes:
        raise UserError(f'mesh.process={process} must be at least 0 and below mesh.processes={processes}')
    host, _, port = address.rpartition(':')
    return Place(host.strip('[]'), int(port), processes, process, devices and tuple(devices))


def _detected(address: str | None, processes: int | None, process: int | None, timeout: float) -> Any:
    from jax._src.clusters import ClusterEnv  # JAX has no public name for it

    try:
        return ClusterEnv.auto_detect_unset_distributed_params(
            address, processes, process, None, None, max(int(timeout), 1)
        )
    except Exception as error:  # whatever a scheduler's variables, a metadata server or a resolver makes of it
        raise UserError(
            f'mesh.distributed: JAX could not read from the environment which process this is ({in_a_line(error)}): '
            'give --mesh.coordinator, --mesh.processes and --mesh.process'
        ) from error


def _say(line: str) -> None:
    sys.stdout.write(f'{line}\n')
    sys.stdout.flush()


@contextmanager
def joined(config: Config, dry_run: bool = False, say: Callable[[str], None] = _say) -> Iterator[None]:
    """Inside it this process is one of several, and JAX has all their devices.

    An error ends all processes with its message and one exit code.

    Raises:
      UserError: not all processes came, or they do not fit together; every one that came raises it.
    """
    place = place_of(config.mesh)
    peers, service = meet(place, {'dry_run': dry_run, **to_json(config)}, config.mesh, say)
    try:
        if place.process:
            service = '127.0.0.1', Relay(service, config.mesh.timeout).port
        host, port = service
        # It would catch SIGTERM, which `train.stop` does where there is something to save.
        jax.config.update('jax_enable_preemption_service', False)
        jax.distributed.initialize(
            f'{"127.0.0.1" if host in EVERYWHERE else host}:{port}',
            place.processes,
            place.process,
            local_device_ids=place.devices,
            cluster_detection_method='deactivate',
            initialization_timeout=max(int(config.mesh.timeout), 1),
            heartbeat_timeout_seconds=NEVER,
            shutdown_timeout_seconds=SHUTDOWN,
            coordinator_bind_address=f'{host}:{port}',
        )
        yield
        peers.finish()
    except BaseException as error:
        peers.fail(error)
    with contextlib.suppress(RuntimeError):  # one that died since all were done
        jax.distributed.shutdown()


def meet(
    place: Place, options: Mapping[str, Any], mesh: Mesh, say: Callable[[str], None]
) -> tuple[Peers, tuple[str, int]]:
    """Waits for all processes.

    Args:
      place: of this process.
      options: of the command, in which the processes must agree.
      mesh: whose time-outs count.
      say: prints a line.

    Returns:
      The processes, and where JAX's coordination service is: for process 0 the address to bind.

    Raises:
      UserError: not all came within `mesh.timeout`, or they do not fit together.
    """
    hello = {
        'protocol': PROTOCOL,
        'host': socket.gethostname(),
        'processes': place.processes,
        'process': place.process,
        'jax': jax.__version__,
        'options': options,
    }
    return (_come if place.process else _gather)(place, hello, mesh, say)


def _listen(place: Place) -> socket.socket:
    """At all addresses of this host, or at loopback alone if that is where the others look for it."""
    try:
        if loopback := _loopback(place.host):
            family = socket.AF_INET6 if ':' in loopback else socket.AF_INET
            return socket.create_server((loopback, place.port), family=family, backlog=1024)
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # a host without addresses of the sixth version
                return socket.create_server(('', place.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(('', place.port), backlog=1024)
    except OSError as error:
        reason = 'is in use' if error.errno == errno.EADDRINUSE else f'cannot be used ({error.strerror})'
        raise UserError(
            f'mesh.coordinator={place.address}: port {place.port} {reason} on the host of process 0: choose another, '
            'the same for all processes'
        ) from error


def _loopback(host: str) -> str:
    """The address of this host that only itself can reach, if that is what a name stands for; '' otherwise."""
    if host == 'localhost':
        return '127.0.0.1'
    try:
        return host if ipaddress.ip_address(host).is_loopback else ''
    except ValueError:
        return ''


def _gather(place: Place, hello: Message, mesh: Mesh, say: Callable[[str], None]) -> tuple[Peers, tuple[str, int]]:
    """Process 0: lets the others come, and says to all of them when to begin."""
    came: dict[int, Connection] = {}
    hosts = {0: str(hello['host'])}
    strangers: list[Connection] = []
    began = time.monotonic()
    next_beat, next_line = began, began + PATIENCE[0]

    def send(**message: Any) -> None:
        for connection in came.values():
            connection.send(protocol=PROTOCOL, **message)

    def refuse(text: str) -> NoReturn:
        send(refused=text)
        wait_until_closed([*came.values()])
        raise UserError(text)

    def introduce(connection: Connection) -> None:
        """Takes in a process whose first message has arrived."""
        message = connection.inbox.popleft()
        process = message.get('process')
        if message.get('protocol') != PROTOCOL or not isinstance(process, int):
            connection.close()
            return
        wrong = _misfit(hello, message)
        if not wrong and process in came and is_there(came[process]):
            wrong = (
                f'two processes are mesh.process={process}, on {hosts[process]} and {message["host"]}: '
                'each needs a number of its own'
            )
        if wrong:
            connection.send(protocol=PROTOCOL, refused=f'mesh.distributed: {wrong}')
            refuse(f'mesh.distributed: {wrong}')
        came[process], hosts[process] = connection, message['host']

    with _listen(place) as listener:
        while missing := [process for process in range(1, place.processes) if process not in came]:
            now = time.monotonic()
            if now - began > mesh.timeout:
                refuse(_did_not_come(missing, place, mesh))
            if now > next_line:
                next_line = now + PATIENCE[1]
                say(f'waiting for {_named(missing)} of {place.processes} at {place.address}')
            if now > next_beat:
                next_beat = now + mesh.heartbeat_timeout / BEATS
                send(missing=missing)
            for found in ready([listener, *came.values(), *strangers], 0.1):
                if isinstance(found, Connection):
                    found.receive()
                else:
                    with contextlib.suppress(OSError):
                        strangers.append(Connection(listener.accept()[0]))
            for connection in strangers:
                if connection.inbox:
                    introduce(connection)
                    next_beat = now  # it hears at once for whom it waits
            strangers = [connection for connection in strangers if connection.open and connection not in came.values()]
            came = {process: connection for process, connection in came.items() if connection.open}
        local = listener.getsockname()[0]
    for connection in strangers:
        connection.close()
    port = _free_port()
    send(go=port, hosts=hosts)
    peers = Peers(0, place.processes, came, hosts, mesh.heartbeat_timeout)
    return peers, (f'[{local}]' if ':' in local else local, port)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(('', 0))
        return found.getsockname()[1]


def _named(processes: list[int]) -> str:
    listed = ', '.join(map(str, processes[:8])) + (f' and {len(processes) - 8} more' if len(processes) > 8 else '')
    return f'process {listed}' if len(processes) == 1 else f'processes {listed}'


def _did_not_come(missing: list[int], place: Place, mesh: Mesh) -> str:
    return (
        f'mesh.distributed: {_named(missing)} of {place.processes} did not come within {mesh.timeout:g} s '
        f'(mesh.timeout) to {place.address}: start every process with the same command and its own mesh.process'
    )


def _misfit(first: Message, other: Message) -> str:
    """Why a process cannot be one of those of process 0; '' if it can."""
    name = f'process {other["process"]} on {other["host"]}'
    if other['processes'] != first['processes']:
        return f'{name} has mesh.processes={other["processes"]}, process 0 has {first["processes"]}'
    if not 0 <= other['process'] < other['processes']:
        return f'{name} is none of {other["processes"]}'
    if other['process'] == 0:
        return f'another process 0 runs on {other["host"]}: each needs a mesh.process of its own'
    if other['jax'] != first['jax']:
        return f'{name} has jax {other["jax"]}, process 0 has {first["jax"]}: install one version on all hosts'
    changed = differences_of_hosts(first['options'], other['options'])
    if changed:
        listed = ', '.join(f'{key}={there!r} instead of {here!r}' for key, (here, there) in changed.items())
        return f'{name} was started with other options than process 0: {listed}'
    return ''


def _come(place: Place, hello: Message, mesh: Mesh, say: Callable[[str], None]) -> tuple[Peers, tuple[str, int]]:
    """All others: go to process 0, and wait until it says that all have come."""
    began = time.monotonic()
    next_line, problem = began + PATIENCE[0], 'it does not answer'
    while (left := began + mesh.timeout - time.monotonic()) > 0:
        if time.monotonic() > next_line:
            next_line += PATIENCE[1]
            say(f'waiting for process 0 of {place.processes} at {place.address}')
        try:
            connection = Connection(connect(place.host, place.port, timeout=min(left, 5)))
        except OSError as error:
            problem = error.strerror or str(error) or problem
            time.sleep(min(left, 0.2))
            continue
        connection.send(**hello)
        if go := _admitted(connection, place, mesh, began, say):
            hosts = {int(process): name for process, name in go['hosts'].items()}
            peers = Peers(place.process, place.processes, {0: connection}, hosts, mesh.heartbeat_timeout)
            return peers, (connection.socket.getpeername()[0], go['go'])
        connection.close()
        problem = 'what answers there is no process of this run'
        time.sleep(0.2)
    raise UserError(
        f'mesh.distributed: process 0 of {place.processes} was not reached at {place.address} within '
        f'{mesh.timeout:g} s (mesh.timeout): {problem}'
    )


def _admitted(
    connection: Connection, place: Place, mesh: Mesh, began: float, say: Callable[[str], None]
) -> Message | None:
    """What process 0 says once all have come; None if it has gone, or if that was no process 0.

    Raises:
      UserError: process 0 refuses to begin, or somebody else did not come in time.
    """
    missing: list[int] = []
    next_beat, next_line = 0.0, began + PATIENCE[0]
    while connection.open and (now := time.monotonic()) - connection.seen < mesh.heartbeat_timeout:
        if now - began > mesh.timeout + FAREWELL:  # process 0, which waits as long, is the first to say so
            if missing:
                connection.close()
                raise UserError(_did_not_come(missing, place, mesh))
            break
        if missing and now > next_line:
            next_line = now + PATIENCE[1]
            say(f'waiting for {_named(missing)} of {place.processes} at {place.address}')
        if now > next_beat:
            next_beat = now + mesh.heartbeat_timeout / BEATS
            connection.send(beat=True)
        for _ in ready([connection], 0.1):
            connection.receive()
        while connection.inbox:
            message = connection.inbox.popleft()
            if message.get('protocol') != PROTOCOL:
                return None
            if 'go' in message:
                return message
            if 'refused' in message:
                connection.close()
                raise UserError(message['refused'])
            missing = message['missing']
    return None
