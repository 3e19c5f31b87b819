"""A web server in the test's process that notes the start and the end of each request by its own clock."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.loopback_server import LoopbackHandler, LoopbackServer


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answers to one request: the status, the seconds before the answer, and more headers."""

    status: int = 200
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """One request: its path, its times of the monotonic clock, and the status of its answer."""

    path: str
    started: float
    ended: float
    status: int


class CountingServer(LoopbackServer):
    """A server that answers with an image, unless the function `reply` asks for another answer.

    A request starts when its header is complete. It ends just before the answer is sent, because a client may start its
    next request before this process runs again. So the server never counts two requests as open that the client had
    open one after the other.
    """

    request_queue_size = 1024

    def __init__(self, body: bytes, reply: Callable[[float], Reply], port: int = 0) -> None:
        """Take the image, the function that chooses the answer to a request by its start, and the port."""
        super().__init__(_Handler, port)
        self.body, self.reply = body, reply
        self.requests: list[Served] = []
        self._lock = threading.Lock()
        self.first: float | None = None

    def handle_error(self, *_: object) -> None:
        """Print nothing if a killed client has closed its connection."""

    def begin(self, now: float) -> Reply:
        """Note that a request has started, and return its answer; one request at a time."""
        with self._lock:
            self.first = self.first or now
            return self.reply(now)

    def note(self, served: Served) -> None:
        """Note a request that ends."""
        with self._lock:
            self.requests.append(served)

    def served(self) -> list[Served]:
        """Return the requests so far, ordered by their start."""
        with self._lock:
            return sorted(self.requests, key=lambda served: served.started)


class _Handler(LoopbackHandler):
    server: CountingServer

    def do_GET(self) -> None:  # noqa: N802  # the base class calls it
        """Wait, and send the answer."""
        started = time.monotonic()
        reply = self.server.begin(started)
        time.sleep(reply.seconds)
        body = self.server.body if reply.status == 200 else b"later"
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        # The base class sends the buffered answer after this method.
        self.server.note(Served(self.path, started, time.monotonic(), reply.status))


def most_open(requests: Sequence[Served]) -> int:
    """Return the largest number of requests that were open at the same time."""
    changes = sorted([(one.ended, -1) for one in requests] + [(one.started, 1) for one in requests])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def most_in_a_second(requests: Sequence[Served]) -> int:
    """Return the largest number of requests that started within one second."""
    starts = sorted(one.started for one in requests)
    return max(bisect_left(starts, start + 1.0) - place for place, start in enumerate(starts))
