"""Fixtures for the unit tests: servers on loopback, a certificate, downloaders, and a run's output folder."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

import hypothesis
import pytest
from PIL import Image

from producer.demo import DemoServer
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.download.lookups import lookups
from tasks.errors import FetchError
from tasks.model import FetchOptions, Outcome, Status, image_key
from tasks.storage.local_store import LocalStore
from tests.conftest import required
from tests.demo_server import running
from tests.encoding import encoded
from tests.waiting import PATIENCE

hypothesis.settings.register_profile("unit", max_examples=20, deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("unit")


@pytest.fixture(autouse=True)
def new_lookups() -> None:
    """Forget the open look-ups, because a test may have left one that never ends."""
    lookups.cache_clear()


@cache
def image(kind: str = "PNG", size: tuple[int, int] = (4, 3), colour: str = "red") -> bytes:
    """Return the bytes of an image in one of Pillow's formats."""
    return encoded(Image.new("RGB", size, colour), kind)


def response(body: bytes = b"body", status: str = "200 OK", *fields: str, length: bool = True) -> bytes:
    """Return an HTTP response, which has no Content-Length if ``length`` is False."""
    head = [f"HTTP/1.1 {status}", *fields, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


#: The answer of a `Canned` server to a request. Each piece of the answer is sent in a separate call.
Answer = Callable[[bytes], Iterable[bytes]]


class Judge:
    """A judge of failures that remembers them."""

    def __init__(self, is_host_fault: bool = False) -> None:
        self.failures: list[FetchError] = []
        self._is_host_fault = is_host_fault

    def __call__(self, error: FetchError) -> None:
        """Let the image fail."""
        self.failures.append(error)

    def is_host_fault(self, error: FetchError) -> bool:
        """Return the same answer for each failure."""
        return self._is_host_fault


class Canned:
    """Serve canned answers on 127.0.0.1 and record the requests."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        """Set the answers, the TLS context for https, and the listening address."""
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = threading.Event()
        self._answer, self._tls = answer, tls
        self._listener = socket.create_server((host, 0), backlog=1024)
        self._threads = [threading.Thread(target=self._accept)]
        self._clients: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        # The sockets are shut down first, because closing alone would not wake the threads in accept and recv.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(PATIENCE)
        self.drop_clients()
        self._listener.close()

    def drop_clients(self) -> None:
        """Close all open connections."""
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(PATIENCE)
        del self._threads[1:]
        self._clients.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            if self._tls is None:
                self._converse(client)
            else:
                # Wrap a copy, because wrapping detaches the socket from `client`, and `drop_clients` shuts `client`
                # down.
                with self._tls.wrap_socket(client.dup(), server_side=True) as wrapped:
                    self._converse(wrapped)

    def _converse(self, client: socket.socket) -> None:
        received = b""
        while block := client.recv(65536):
            received += block
            if received.endswith(b"\r\n\r\n"):
                self.requests.append(received)
                for piece in self._answer(received):
                    client.sendall(piece)
                received = b""


def always(*pieces: bytes) -> Answer:
    """Return the same answer to every request."""
    return lambda _: pieces


@pytest.fixture(scope="session")
def demo() -> Iterator[DemoServer]:
    """Run one demo server for all tests that only send requests to it."""
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def allowed(demo: DemoServer) -> list[str]:
    """Return an allow list that has only the demo server's address and port."""
    return ["{}:{}".format(*demo.address)]


@pytest.fixture
def waits() -> list[float]:
    """Return the list of seconds that `downloader` would have slept."""
    return []


@pytest.fixture(scope="session")
def demo_sessions(allowed: list[str]) -> Sessions:
    """Return sessions that may connect only to the demo server."""
    return Sessions(Guard(allowed))


@pytest.fixture
def downloader(demo_sessions: Sessions, waits: list[float]) -> Downloader:
    """Return a downloader that may connect only to the demo server.

    The downloader records its waits instead of sleeping.
    """
    return Downloader(demo_sessions, sleep=waits.append)


@pytest.fixture
def sessions_to(certificate: Path) -> Iterator[Callable[..., Sessions]]:
    """Make sessions that may connect only to the given networks, and close them after the test."""
    made: list[Sessions] = []

    def make(*allow: str) -> Sessions:
        # A bundle with one certificate loads at once. The usual bundle takes 20 ms to load.
        made.append(Sessions(Guard(allow), certificate))
        return made[-1]

    yield make
    for sessions in made:
        sessions.adapter().close()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return a store with an empty run folder."""
    return LocalStore(tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with the key and the self-signed certificate of 127.0.0.1 and localhost."""
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(required("openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=imagefleet tests"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + made.read_bytes())
    return both


@pytest.fixture(scope="session")
def server_context(certificate: Path) -> ssl.SSLContext:
    """Return a server's TLS context with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def success(offset: int, shard: int = 0, shard_size: int = 1000, **values: object) -> Outcome:
    """Return the Outcome of a saved image. The Outcome names a file, but the file is not created."""
    key = image_key(shard * shard_size + offset, shard_size)
    known: dict[str, object] = {"path": f"{shard:05d}/{key}.png", "bytes": 3, "finished_at": 100.0, "attempts": 1}
    return Outcome(key, Status.SUCCESS, **{**known, **values})  # type: ignore[arg-type]


#: Options without retries, and with a deadline that no test should reach.
ONCE = FetchOptions(timeout=2.0, deadline=PATIENCE, retries=0, backoff=0)
