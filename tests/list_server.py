"""A small web server for URL lists that runs in this process.

It works with or without ranges and ETags, and a test can make it fail.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from tests.loopback_server import LoopbackHandler, LoopbackServer


class ListServer(LoopbackServer):
    """The server; ``files`` maps each path to its body."""

    def handle_error(self, *_: object) -> None:
        """Print nothing if a client closes its connection early."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.files: dict[str, bytes] = {}
        #: Whether the server understands ranges.
        self.has_ranges = True
        #: The names of the headers that give the version of a file.
        self.versions: tuple[str, ...] = ("ETag",)
        #: The target and the headers of each request.
        self.requests: list[dict[str, str]] = []
        #: Called with the number of the request, from 0. Returns a status to answer with, "cut" to break the connection
        #: in the middle of the body, or None to answer the request.
        self.fault: Callable[[int], int | str | None] = lambda _: None


class _Handler(LoopbackHandler):
    server: ListServer

    def do_GET(self) -> None:  # noqa: N802  # the base class finds it by this name
        number = len(self.server.requests)
        self.server.requests.append({**self.headers, "target": self.path})
        fault = self.server.fault(number)
        body = self.server.files.get(urlsplit(self.path).path)
        if isinstance(fault, int):
            self._send(fault, b"fault", {})
        elif body is None:
            self._send(404, b"not found", {})
        else:
            self._answer(body, fault == "cut")

    def _answer(self, body: bytes, cut: bool) -> None:
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        known = {"ETag": tag, "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        headers = {name: known[name] for name in self.server.versions}
        if self.headers.get("If-Match") not in (None, tag):
            self._send(412, b"", headers)
            return
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None or not self.server.has_ranges:
            self._send(200, body, headers, cut)
            return
        start, end = int(part[1]), min(int(part[2]) + 1, len(body))
        if start >= len(body):
            self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        self._send(206, body[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}, cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut
