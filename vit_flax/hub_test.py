"""Downloads from a server of the hub's form on this machine, which also fails in every way that it can."""

import contextlib
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field

import pytest
from huggingface_hub import constants

from vit_flax import hub
from vit_flax.pretrained import from_pretrained
from vit_flax.weights.files import FileError

COMMIT = 'a' * 40
LARGE = 'model.safetensors'
# No arrays.
EMPTY = (2).to_bytes(8, 'little') + b'{}'


@dataclass
class Server:
    """The files of one repository, `me/vit`, and how they are answered.

    Attributes:
      failure: what happens to the content of `LARGE`: '' nothing; 'breaks off' the connection ends in the middle;
        'truncated' it is shorter than announced; 'other' other bytes of the same length; 'longer' more bytes than
        announced; a number an error of the server.
      asked: paths that were asked for.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    failure: str = ''
    asked: list[str] = field(default_factory=list)
    commit: str = COMMIT

    def answer(self, request: http.server.BaseHTTPRequestHandler, with_body: bool) -> None:
        self.asked.append(f'{request.command} {request.path}')
        owner, _, rest = request.path.lstrip('/').partition('/resolve/')
        revision, _, name = rest.partition('/')
        if self.failure.isdigit() and (name == LARGE or self.failure != '404'):
            return request.send_error(int(self.failure))
        if owner != 'me/vit':
            return self.refuse(request, 401, 'RepoNotFound')
        if revision not in ('main', 'v1', self.commit):
            return self.refuse(request, 404, 'RevisionNotFound')
        if name not in self.files:
            return self.refuse(request, 404, 'EntryNotFound')
        body = self.files[name]
        git = hashlib.sha1(b'blob %d\0' % len(body) + body).hexdigest()
        etag = hashlib.sha256(body).hexdigest() if name == LARGE else git
        request.send_response(200)
        sent = body
        if name == LARGE and with_body:
            if self.failure == 'other':
                sent = body[:-1] + bytes([body[-1] ^ 1])
            elif self.failure == 'breaks off':
                sent = body[: len(body) // 2]
            elif self.failure == 'truncated':
                sent = body = body[: len(body) // 2]
            elif self.failure == 'longer':
                sent = body = body + b'more'
        request.send_header('Content-Length', str(len(body)))
        request.send_header('ETag', f'"{etag}"')
        request.send_header('X-Repo-Commit', self.commit)
        request.end_headers()
        if with_body:
            with contextlib.suppress(OSError):
                request.wfile.write(sent)
        return None

    def refuse(self, request: http.server.BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header('X-Error-Code', code)
        request.send_header('X-Repo-Commit', self.commit)
        request.send_header('Content-Length', '0')
        request.end_headers()


@pytest.fixture
def server(monkeypatch, tmp_path):
    found = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found.answer(self, True)

        def do_HEAD(self):
            found.answer(self, False)

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    address = f'http://127.0.0.1:{running.server_port}'
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', address + '/{repo_id}/resolve/{revision}/{filename}')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    for name in ('http_proxy', 'HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    # waits between tries
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    yield found
    running.shutdown()
    running.server_close()


def test_a_file_and_its_commit(server, tmp_path):
    server.files[LARGE] = b'0123456789' * 1000
    path = hub.download('me/vit', LARGE, cache=str(tmp_path / 'mine'))
    assert path.read_bytes() == server.files[LARGE]
    assert hub.commit(path) == COMMIT
    asked = len(server.asked)
    assert hub.download('me/vit', LARGE, cache=str(tmp_path / 'mine'), offline=True) == path
    assert len(server.asked) == asked


@pytest.mark.parametrize('failure', ['breaks off', 'truncated', 'other', 'longer', '404', '403', '500', '503'])
def test_nothing_half_or_foreign_is_read(server, tmp_path, failure):
    server.files[LARGE] = b'0123456789' * 1000
    server.failure = failure
    with pytest.raises(hub.HubError) as raised:
        hub.download('me/vit', LARGE)
    message = str(raised.value)
    assert '\n' not in message and 'me/vit' in message and LARGE in message
    with pytest.raises(hub.HubError):
        hub.download('me/vit', LARGE, offline=True)
    server.failure = ''
    assert hub.download('me/vit', LARGE).read_bytes() == server.files[LARGE]


def test_a_cache_that_was_damaged(server):
    server.files = {LARGE: b'0123456789' * 1000, 'config.json': b'{}'}
    for name in server.files:
        path = hub.download('me/vit', name)
        path.resolve().chmod(0o644)
        path.resolve().write_bytes(b'{ }')
        with pytest.raises(hub.HubError, match='another content than announced'):
            hub.download('me/vit', name, offline=True)
        assert hub.download('me/vit', name).read_bytes() == server.files[name]


@pytest.mark.parametrize(
    ('repository', 'file', 'options', 'message'),
    [
        ('you/vit', LARGE, {}, 'no such repository'),
        ('me/vit', LARGE, {'revision': 'v9'}, 'no revision v9'),
        ('me/vit', 'other.bin', {}, 'no file other.bin'),
        ('me/vit', 'other.bin', {'revision': 'v1'}, 'no file other.bin at revision v1'),
        ('me/vit', LARGE, {'offline': True}, 'offline, and .* not in the cache'),
        ('me/v/it', LARGE, {}, 'owner/name'),
    ],
)
def test_what_is_not_there(server, repository, file, options, message):
    server.files[LARGE] = b'x'
    with pytest.raises(hub.HubError, match=message) as raised:
        hub.download(repository, file, **options)
    assert '\n' not in str(raised.value)


def test_without_a_network(server, monkeypatch):
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(
        constants,
        'HUGGINGFACE_CO_URL_TEMPLATE',
        'http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}',
    )
    with pytest.raises(
        FileError, match=r'not reachable \(.*refused.*\), and config.json is not in the cache'
    ) as raised:
        from_pretrained('me/vit')
    assert '\n' not in str(raised.value)


def test_one_commit(server):
    """What is pushed while weights are downloaded does not mix with what was there before."""
    server.files = {'config.json': json.dumps({'architecture': 'nothing'}).encode(), LARGE: EMPTY}
    with pytest.raises(ValueError, match="architecture 'nothing' is not built here"):
        from_pretrained('me/vit', revision='main')
    heads = [line for line in server.asked if line.startswith('HEAD')]
    assert heads[0] == 'HEAD /me/vit/resolve/main/config.json'
    assert all(f'/resolve/{COMMIT}/' in line for line in heads[1:])
