"""Several processes: all meet or all say who is missing, and what ends one ends all. Here they are threads; those of
`train/distributed_test.py` are processes that train."""

import contextlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from jax.errors import JaxRuntimeError

from train import hosts, peers
from train.cli import parse
from train.config import Mesh, to_json
from train.errors import Diverged, UserError
from train.hosts import PROTOCOL, Place, meet, place_of
from train.peers import AGAIN, Connection, Peers
from train.relay import Relay

# Threads stand in for processes, and a thread ends by an exception.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')

OPTIONS = {'dry_run': False, **to_json(parse('digits', [])[0])}


def free_port() -> int:
    """Below those that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(('127.0.0.1', port)):
            return port


@pytest.fixture
def quick(monkeypatch) -> None:
    """Without patience."""
    monkeypatch.setattr(hosts, 'PATIENCE', (0.0, 30.0))
    monkeypatch.setattr(peers, 'GRACE', 0.3)
    for module in (hosts, peers):
        monkeypatch.setattr(module, 'FAREWELL', 0.3)


@pytest.fixture(autouse=True)
def codes(monkeypatch) -> dict[str, int]:
    """What processes end with, by name of their thread."""
    found: dict[str, int] = {}

    def end(code: int) -> None:
        found[threading.current_thread().name] = code
        raise SystemExit

    monkeypatch.setattr(peers, '_exit', end)
    return found


# Seconds after which a test gives up.
WAIT = 20


def in_background(function: Callable, *args: Any) -> Future:
    """In a thread that may go on for ever."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Process:
    """One of several in a thread of its own."""

    def __init__(
        self,
        port: int,
        processes: int,
        process: int,
        timeout: float = WAIT,
        heartbeat_timeout: float = 40,
        **options: object,
    ):
        self.said: list[str] = []
        place = Place('127.0.0.1', port, processes, process)
        mesh = Mesh(timeout=timeout, heartbeat_timeout=heartbeat_timeout)
        self._met = in_background(meet, place, {**OPTIONS, **options}, mesh, self.said.append)

    @property
    def refused(self) -> str:
        with pytest.raises(UserError) as error:
            self._met.result(WAIT)
        assert '\n' not in str(error.value)
        return str(error.value)

    @property
    def peers(self) -> Peers:
        return self._met.result(WAIT)[0]


def finish(processes: list[Process]) -> None:
    """All come to their end."""
    for future in [in_background(process.peers.finish) for process in processes]:
        future.result(WAIT)


@contextlib.contextmanager
def stranger(port: int, data: bytes = b'') -> Iterator[socket.socket]:
    """Somebody who has found the port."""
    with contextlib.closing(wait_until_listening(port)) as found:
        found.sendall(data)
        yield found


def wait_until_listening(port: int) -> socket.socket:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = socket.create_connection(('127.0.0.1', port), timeout=60)
            if found.getsockname() != found.getpeername():
                return found
        time.sleep(0.05)
    raise TimeoutError


# ---------------------------------------------------------------------- meeting


@pytest.mark.parametrize('order', [(0, 1, 2, 3), (3, 1, 2, 0)])
def test_all_meet_in_any_order(order, quick):
    port = free_port()
    came = []
    for index in order:
        came.append(Process(port, 4, index))
        time.sleep(0.2)
    assert sorted(process.peers.process for process in came) == [0, 1, 2, 3]
    assert all(len(process.peers.hosts) == 4 for process in came)
    assert any('waiting for process' in line and f'of 4 at 127.0.0.1:{port}' in line for line in came[0].said)
    finish(came)


def test_who_is_missing_is_named_by_all_who_came(quick):
    port = free_port()
    came = [Process(port, 5, index, timeout=1.5, heartbeat_timeout=1) for index in (0, 2)]
    for process in came:
        assert 'processes 1, 3, 4 of 5 did not come within 1.5 s (mesh.timeout)' in process.refused
        assert any('waiting for processes 1, ' in line for line in process.said)


def test_each_waits_as_long_as_it_was_told(quick):
    """Whatever the time-out of process 0, which is still waiting."""
    port = free_port()
    first, second = Process(port, 3, 0), Process(port, 3, 1, timeout=0.6, heartbeat_timeout=40)
    assert 'process 2 of 3 did not come within 0.6 s (mesh.timeout)' in second.refused
    finish([first, Process(port, 3, 1), Process(port, 3, 2)])


@pytest.mark.parametrize(
    'there', [b'', b'HTTP/1.1 400 Bad Request\r\n\r\n', None], ids=['silent', 'web server', 'none']
)
def test_a_missing_process_0_is_named(there, quick):
    port = free_port()
    with contextlib.ExitStack() as stack:
        if there is not None:
            server = stack.enter_context(socket.create_server(('127.0.0.1', port)))
            in_background(lambda: server.accept()[0].sendall(there))
        message = Process(port, 2, 1, timeout=0.6).refused
    assert f'process 0 of 2 was not reached at 127.0.0.1:{port} within 0.6 s (mesh.timeout)' in message


@pytest.mark.parametrize(
    'other, said',
    [
        (dict(processes=3, process=1), 'process 1 on .* has mesh.processes=3, process 0 has 2'),
        (
            dict(processes=2, process=1, steps=7),
            'process 1 on .* other options than process 0: steps=7 instead of {steps}$',
        ),
        (
            dict(processes=2, process=1, dry_run=True),
            'process 1 on .* options .*: dry_run=True instead of False$',
        ),
    ],
    ids=['count', 'options', 'dry run'],
)
def test_processes_that_do_not_fit_together_are_refused(other, said, quick):
    port = free_port()
    for process in (Process(port, 2, 0), Process(port, **other)):
        assert re.search(said.format(**OPTIONS), process.refused)


def test_other_versions_of_jax_are_refused():
    first = {'processes': 2, 'process': 0, 'host': 'a', 'jax': '1', 'options': {}}
    said = hosts._misfit(first, {**first, 'process': 1, 'host': 'b', 'jax': '2'})
    assert said == 'process 1 on b has jax 2, process 0 has 1: install one version on all hosts'
    assert 'another process 0 runs on b' in hosts._misfit(first, {**first, 'host': 'b'})


def test_two_processes_of_one_number_are_refused(quick):
    port = free_port()
    first = Process(port, 3, 0)
    others = [Process(port, 3, 1), Process(port, 3, 1)]
    for process in (first, *others):
        assert 'two processes are mesh.process=1' in process.refused


def test_a_second_process_0_is_refused_and_disturbs_nobody(quick):
    port = free_port()
    first = Process(port, 2, 0)
    wait_until_listening(port).close()
    assert f'mesh.coordinator=127.0.0.1:{port}: port {port} is in use' in Process(port, 2, 0).refused
    finish([first, Process(port, 2, 1)])


def test_how_a_host_loads_its_data_is_its_own(quick):
    port = free_port()
    finish([Process(port, 2, 0), Process(port, 2, 1, loader={'threads': 9}, out='elsewhere')])


@pytest.mark.parametrize(
    'data',
    [b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff\n', b'[]\n', b'{}\n', b'[' * 10**5 + b'\n', b'{"protocol": "other"}\n',
     b'x' * 2**21, b'{"protocol": "%s", "process": "1"}\n' % PROTOCOL.encode()],
    ids=['silent', 'web', 'bytes', 'list', 'empty', 'nested', 'other protocol', 'endless', 'odd number'],
)  # fmt: skip
def test_strangers_disturb_nobody(data, quick):
    port = free_port()
    first = Process(port, 2, 0)
    with contextlib.suppress(OSError), stranger(port, data):
        second = Process(port, 2, 1)
        assert second.peers.process == 1
    finish([first, second])


def test_who_went_before_all_came_may_come_again(quick):
    port = free_port()
    processes = [Process(port, 4, 0), Process(port, 4, 2)]
    hello = {'protocol': PROTOCOL, 'process': 1, 'host': 'x', 'processes': 4, 'jax': hosts.jax.__version__}
    for _ in range(2):
        with stranger(port, json.dumps({**hello, 'options': OPTIONS}).encode() + b'\n') as other:
            assert PROTOCOL.encode() in other.recv(2**16)  # it was let in
    finish([*processes, Process(port, 4, 1), Process(port, 4, 3)])


# ---------------------------------------------------------------------- what the environment tells


@pytest.fixture
def environment(monkeypatch):
    """Of a scheduler."""

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


SLURM = dict(
    SLURM_JOB_ID='4097', SLURM_STEP_NODELIST='node[003-004]', SLURM_NTASKS='16', SLURM_PROCID='9', SLURM_LOCALID='1'
)


def test_slurm_tells(environment):
    environment(**SLURM)
    assert place_of(Mesh(distributed=True)) == Place('node003', 61441, 16, 9, (1,))
    # what is given counts, and is enough without what it finds
    given = Mesh(distributed=True, coordinator='[fe80::1]:80', processes=2, process=1)
    assert place_of(given) == Place('fe80::1', 80, 2, 1) and place_of(given).address == '[fe80::1]:80'
    assert place_of(Mesh(distributed=True, coordinator='a:80')) == Place('a', 80, 16, 9, (1,))


def test_open_mpi_tells(environment):
    environment(
        OMPI_MCA_orte_hnp_uri='1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
        OMPI_COMM_WORLD_SIZE='4',
        OMPI_COMM_WORLD_RANK='3',
        OMPI_COMM_WORLD_LOCAL_RANK='0',
    )
    assert place_of(Mesh(distributed=True)) == Place('10.96.0.1', 62624, 4, 3, (0,))


def test_an_environment_that_tells_nonsense_is_refused(environment):
    environment(**{**SLURM, 'SLURM_NTASKS': 'many'})
    with pytest.raises(UserError, match=r'could not read from the environment which process this is .*many'):
        place_of(Mesh(distributed=True))
    environment(**{**SLURM, 'SLURM_PROCID': '16'})
    with pytest.raises(UserError, match=r'mesh\.process=16 must be at least 0 and below mesh\.processes=16'):
        place_of(Mesh(distributed=True))


# ---------------------------------------------------------------------- ending


@pytest.fixture
def three(quick, codes) -> list[Peers]:
    """Three processes that have met, and give each other up after a second of silence."""
    port = free_port()
    return [process.peers for process in [Process(port, 3, index, heartbeat_timeout=1) for index in range(3)]]


def wait_for_codes(codes: dict[str, int], count: int) -> list[int]:
    end = time.monotonic() + WAIT
    while len(codes) < count and time.monotonic() < end:
        time.sleep(0.02)
    return sorted(codes.values())


@pytest.fixture(autouse=True)
def named_threads(monkeypatch):
    """The threads that end processes have names of their own."""
    start = threading.Thread.start

    def named(self):
        if self.name == 'hosts':
            self.name = f'hosts {id(self)}'
        start(self)

    monkeypatch.setattr(threading.Thread, 'start', named)


@pytest.mark.parametrize('dead', [0, 1])
def test_a_process_that_dies_ends_the_others(dead, three, codes, monkeypatch, capsys):
    send, gone = Connection.send, [*three[dead].connections.values()]
    monkeypatch.setattr(Connection, 'send', lambda self, **m: None if self in gone else send(self, **m))
    for connection in gone:
        connection.socket.shutdown(socket.SHUT_RDWR)
    wait_for_codes(codes, 3)  # the dead one sees the others as dead
    err = capsys.readouterr().err
    assert err.count(f'error: process {dead} on {socket.gethostname()}: lost (its connection closed); the same') == 2
    assert set(codes.values()) == {AGAIN}


def test_a_process_that_is_silent_ends_the_others(three, codes, monkeypatch, capsys):
    send = Connection.send
    silent = three[2].connections[0]
    monkeypatch.setattr(Connection, 'send', lambda self, **m: None if self is silent else send(self, **m))
    assert wait_for_codes(codes, 3) == [AGAIN] * 3
    here = socket.gethostname()
    # the silent one hears why the others end no more: for it, process 0 is gone
    assert capsys.readouterr().err.count(f'error: process 2 on {here}: lost (no heartbeat for 1 s); the same') == 2


def test_those_that_send_heartbeats_are_not_lost(three, codes):
    time.sleep(1.5)
    assert not codes
    for future in [in_background(process.finish) for process in three]:
        future.result(WAIT)


@pytest.mark.parametrize(
    'failing, error, code, said',
    [
        (0, UserError('no such folder'), 2, 'no such folder'),
        (1, UserError('no such file'), 2, 'no such file'),
        (0, Diverged('the loss is nan'), 1, 'the loss is nan'),
        (1, KeyError('x'), 1, "it failed: KeyError: 'x'"),
        (0, JaxRuntimeError('INTERNAL: device lost'), AGAIN, 'it failed: INTERNAL: device lost'),
        (1, KeyboardInterrupt(), 130, 'it was interrupted'),
    ],
    ids=['refusal of the first', 'refusal', 'diverged', 'bug', 'device', 'Ctrl-C'],
)
def test_what_ends_one_ends_all(failing, error, code, said, three, codes, capsys):
    in_background(three[failing].fail, error)
    assert wait_for_codes(codes, 3) == [code] * 3
    err = capsys.readouterr().err
    assert err.count(f'error: process {failing} on {socket.gethostname()}: {said}\n') == 2
    # its own line, or the traceback of what nobody foresaw
    assert err.count(f'error: {said}\n') == isinstance(error, UserError | Diverged)
    assert err.count("KeyError: 'x'\n") == (3 if isinstance(error, KeyError) else 0)


def test_an_error_that_a_death_caused_is_not_the_reason(three, codes, capsys):
    """A collective fails on those who are left, and what is made of that."""
    caused = UserError('a checkpoint could not be written')
    caused.__cause__ = ValueError('Gloo: connection closed by peer')
    for process in (0, 2):
        in_background(three[process].fail, caused)
    for connection in three[1].connections.values():
        connection.socket.shutdown(socket.SHUT_RDWR)
    assert wait_for_codes(codes, 3) == [AGAIN] * 3
    err = capsys.readouterr().err
    assert err.count('process 1 on') == 2 and 'could not be written' not in err


# ---------------------------------------------------------------------- the relay


def test_a_relay_outlives_its_service():
    with socket.create_server(('127.0.0.1', 0)) as service:
        relay = Relay(service.getsockname(), timeout=60)
        client = socket.create_connection(('127.0.0.1', relay.port), timeout=60)
        behind, _ = service.accept()
        behind.settimeout(60)
        client.sendall(b'to')
        assert behind.recv(2) == b'to'
        behind.sendall(b'fro')
        assert client.recv(3) == b'fro'
        behind.close()
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.close()
