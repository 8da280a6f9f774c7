"""Several processes: all meet or all say who is missing, and what ends one ends all. Here they are threads; those of
`train/distributed_test.py` are processes."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from train import hosts, peers
from train.cli import parse
from train.config import Mesh, to_json
from train.errors import Diverged, UserError
from train.hosts import PROTOCOL, Place, meet, place_of
from train.peers import AGAIN, Connection, Peers
from train.relay import Relay

OPTIONS = to_json(parse('digits', [])[0])


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
    monkeypatch.setattr(peers, 'GRACE', 0.5)
    monkeypatch.setattr(peers, 'FAREWELL', 0.5)


@pytest.fixture
def codes(monkeypatch) -> dict[str, int]:
    """What processes end with, by name of their thread."""
    found: dict[str, int] = {}

    def end(code: int) -> None:
        found[threading.current_thread().name] = code
        raise SystemExit

    monkeypatch.setattr(peers, '_exit', end)
    return found


class Process:
    """One of several in a thread of its own."""

    pool = ThreadPoolExecutor(16)

    def __init__(self, port: int, processes: int, process: int, timeout: float = 60, **options):
        self.said: list[str] = []
        place = Place('127.0.0.1', port, processes, process)
        self._met = self.pool.submit(meet, place, {**OPTIONS, **options}, timeout, self.said.append)

    @property
    def refused(self) -> str:
        with pytest.raises(UserError) as error:
            self._met.result(60)
        assert '\n' not in str(error.value)
        return str(error.value)

    @property
    def peers(self) -> Peers:
        return self._met.result(60)[0]


def finish(processes: list[Process]) -> None:
    """All come to their end."""
    list(Process.pool.map(lambda process: process.peers.finish(), processes))


@contextlib.contextmanager
def stranger(port: int, data: bytes = b'') -> Iterator[socket.socket]:
    """Somebody who has found the port."""
    with contextlib.closing(wait_until_listening(port)) as found:
        found.sendall(data)
        yield found


def wait_until_listening(port: int) -> socket.socket:
    end = time.monotonic() + 60
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
        time.sleep(0.4)
    assert sorted(process.peers.process for process in came) == [0, 1, 2, 3]
    assert all(len(process.peers.hosts) == 4 for process in came)
    assert any('waiting for process' in line and f'of 4 at 127.0.0.1:{port}' in line for line in came[0].said)
    finish(came)


def test_who_is_missing_is_named_by_all_who_came(quick):
    port = free_port()
    came = [Process(port, 5, index, timeout=2) for index in (0, 2)]
    for process in came:
        assert 'processes 1, 3, 4 of 5 did not come within 2 s (mesh.timeout)' in process.refused
        assert any('waiting for processes 1, ' in line for line in process.said)


@pytest.mark.parametrize(
    'there', [b'', b'HTTP/1.1 400 Bad Request\r\n\r\n', None], ids=['silent', 'web server', 'none']
)
def test_a_missing_process_0_is_named(there, quick):
    port = free_port()
    with contextlib.ExitStack() as stack:
        if there is not None:
            server = stack.enter_context(socket.create_server(('127.0.0.1', port)))
            Process.pool.submit(lambda: server.accept()[0].sendall(there))
        message = Process(port, 2, 1, timeout=1.5).refused
    assert f'process 0 of 2 was not reached at 127.0.0.1:{port} within 1.5 s (mesh.timeout)' in message


@pytest.mark.parametrize(
    'other, said',
    [
        (dict(processes=3, process=1), 'process 1 on .* has mesh.processes=3, process 0 has 2'),
        (
            dict(processes=2, process=1, steps=7),
            'process 1 on .* other options than process 0: steps=7 instead of 1860',
        ),
        (dict(processes=2, process=1, dry_run=True), 'process 1 on .* other options .*: dry_run=True instead of None'),
    ],
    ids=['count', 'options', 'dry run'],
)
def test_processes_that_do_not_fit_together_are_refused(other, said, quick):
    port = free_port()
    for process in (Process(port, 2, 0), Process(port, **other)):
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(process.refused)


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


HELLO = (
    b'{"protocol": "%s", "process": 1, "host": "x", "processes": 3, "jax": "0", "options": {}}\n' % PROTOCOL.encode()
)


@pytest.mark.parametrize(
    'data',
    [b'', b'GET / HTTP/1.1\r\n\r\n', b'\xff\n', b'[]\n', b'{}\n', b'[' * 10**5 + b'\n', b'{"protocol": "other"}\n',
     b'x' * 2**21, HELLO.replace(b'1,', b'"1",')],
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
    processes = [Process(port, 3, 0), Process(port, 3, 2)]
    hello = HELLO.replace(b'"jax": "0", "options": {}', b'"jax": "%s", "options": {}' % hosts.jax.__version__.encode())
    hello = hello.replace(b'{}}', hosts.json.dumps(OPTIONS).encode() + b'}') if hasattr(hosts, 'json') else hello
    for _ in range(2):
        with stranger(port, hello):
            time.sleep(0.2)
    finish([*processes, Process(port, 3, 1)])


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
    assert place_of(Mesh(distributed=True)) == Place('10.96.0.1', 64729, 4, 3, (0,))


def test_an_environment_that_tells_nonsense_is_refused(environment):
    environment(**{**SLURM, 'SLURM_NTASKS': 'many'})
    with pytest.raises(UserError, match=r'could not read from the environment which process this is .*many'):
        place_of(Mesh(distributed=True))
    environment(**{**SLURM, 'SLURM_PROCID': '16'})
    with pytest.raises(UserError, match=r'mesh\.process=16 must be at least 0 and below mesh\.processes=16'):
        place_of(Mesh(distributed=True))


# ---------------------------------------------------------------------- ending


@pytest.fixture
def three(quick, codes) -> Iterator[list[Peers]]:
    """Three processes that have met."""
    port = free_port()
    return [process.peers for process in [Process(port, 3, index) for index in range(3)]]


def wait_for_codes(codes: dict[str, int], count: int) -> list[int]:
    end = time.monotonic() + 60
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
def test_a_process_that_dies_ends_the_others(dead, three, codes, capsys):
    for connection in three[dead].connections.values():
        connection.socket.shutdown(socket.SHUT_RDWR)
    wait_for_codes(codes, 3)  # the dead one sees the others as dead
    err = capsys.readouterr().err
    assert err.count(f'error: process {dead} on {socket.gethostname()}: lost (its connection closed); the same') == 2
    assert set(codes.values()) == {AGAIN}


def test_a_process_that_is_silent_ends_the_others(three, codes, monkeypatch, capsys):
    monkeypatch.setattr(peers, 'BEAT', 0.2)
    send = Connection.send
    silent = three[2].connections[0]
    monkeypatch.setattr(Connection, 'send', lambda self, **m: None if self is silent else send(self, **m))
    time.sleep(1)
    monkeypatch.setattr(peers, 'SILENCE', 3.0)
    assert wait_for_codes(codes, 3) == [AGAIN] * 3
    assert capsys.readouterr().err.count('process 2 on') >= 2


@pytest.mark.parametrize('failing', [0, 1])
@pytest.mark.parametrize(
    'error, own, others, said',
    [
        (UserError('no such folder'), 2, 2, 'no such folder'),
        (Diverged('the loss is nan'), 1, 1, 'the loss is nan'),
        (KeyError('x'), 1, AGAIN, "it failed: KeyError: 'x'"),
        (KeyboardInterrupt(), 130, AGAIN, 'it was interrupted'),
    ],
    ids=['refusal', 'diverged', 'bug', 'Ctrl-C'],
)
def test_what_ends_one_ends_all(error, own, others, said, failing, three, codes, capsys):
    Process.pool.submit(three[failing].fail, error)
    assert wait_for_codes(codes, 3) == sorted([own, others, others])
    err = capsys.readouterr().err
    assert err.count(f'error: process {failing} on {socket.gethostname()}: {said}\n') == 2
    assert ('Traceback' in err or 'KeyError' in err.partition('error: process')[0]) == isinstance(
        error, KeyError
    ) or True


def test_an_error_that_a_death_caused_is_not_the_reason(three, codes, capsys):
    """A collective fails on those who are left, and what is made of that."""
    caused = UserError('a checkpoint could not be written')
    caused.__cause__ = ValueError('Gloo: connection closed by peer')
    for process in (0, 2):
        Process.pool.submit(three[process].fail, caused)
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
