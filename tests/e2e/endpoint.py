"""An S3 endpoint on loopback: moto's server behind a proxy that a test can make fail."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import required_module
from tests.integration import processes
from tests.loopback_server import LoopbackHandler, LoopbackServer
from tests.object_server import CREDENTIALS

BUCKET = "images"


@contextmanager
def moto_server(folder: Path) -> Iterator[int]:
    """Run moto's server with an empty bucket; yield its port."""
    required_module("moto")
    required_module("obstore")
    port = processes.free_port()
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with processes.started("moto", argv, folder) as server:
        processes.eventually(lambda: processes.listens(server, port), "moto")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        # moto finds the service by the name in the request's signature. moto does not verify the signature.
        scope = "AWS4-HMAC-SHA256 Credential=id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
        connection.request("PUT", f"/{BUCKET}", headers={"Authorization": scope})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        connection.close()
        yield port


class FaultyEndpoint(LoopbackServer):
    """A context manager that starts and stops a proxy in front of an endpoint."""

    def __init__(self, target: int) -> None:
        """Take the port of the endpoint."""
        super().__init__(_Handler)
        self.target = target
        #: The number of objects written so far.
        self.writes = 0
        #: Called with each method. Returns what to do with a request. A status makes the request fail. A number of
        #: seconds delays the request before it is forwarded. "lost" forwards the request and then breaks the
        #: connection. None forwards the request.
        self.fault: Callable[[str], int | float | str | None] = lambda _: None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for a process that uses this endpoint."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}


class _Handler(LoopbackHandler):
    server: FaultyEndpoint

    def do_GET(self) -> None:  # noqa: N802  # the base class finds it by this name
        self._forward()

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815  # as the last

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(self.command)
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            self._send(fault, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if self.command == "PUT" and answer.status == 200:
            self.server.writes += 1
        if fault == "lost":
            self.close_connection = True
            return
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_HEADERS]
        if self.command == "HEAD":
            kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        self._send(answer.status, kept, content)

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


#: Headers that apply to one connection only, and the Content-Length, which this proxy sets itself.
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
