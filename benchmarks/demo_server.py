"""Measure the images per second of the demo server. Nobody should mistake the server's limit for a downloader's limit.

``python -m benchmarks.demo_server`` requests cached and new images. It uses pipelining on a persistent connection. It
writes ``benchmarks/results/demo-server.json``.
"""

from __future__ import annotations

import re
import socket
import time

from benchmarks import records
from producer.local_fleet.demo_process import DemoProcess

#: Pipelined requests.
_AHEAD = 64
_SECONDS = 3.0
_REPEAT = 5
_READY = 100


def main() -> None:
    """Measure, print a line, and save the result."""
    with DemoProcess(ready=_READY) as server:
        cached = [_rate(server, first=0, cached=_READY) for _ in range(_REPEAT)]
        new = [_rate(server, first=1_000_000 * (turn + 1), cached=0) for turn in range(_REPEAT)]
    path = records.save(
        "demo-server",
        {"repeat": _REPEAT, "drawn_per_second": records.spread(cached), "new_per_second": records.spread(new)},
    )
    print(f"{records.spread(cached)['median']:,.0f} cached, {records.spread(new)['median']:,.0f} new images per second")
    print(f"written to {path}")


def _rate(server: DemoProcess, first: int, cached: int) -> float:
    """Return the images per second over one connection.

    Args:
        server: the demo server.
        first: number of the first new image.
        cached: number of cached images to request repeatedly; 0 to request only new images.
    """
    host, _, port = server.address.partition(":")
    requested = 0
    with socket.create_connection((host, int(port))) as connection:
        started = time.monotonic()
        while time.monotonic() - started < _SECONDS:
            # Every fourth image is a JPEG of 15 KB. Request only these JPEGs.
            numbers = [first + 4 * (requested + step) for step in range(_AHEAD)]
            paths = [f"/images/{number % cached if cached else number}.jpg" for number in numbers]
            connection.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n" for path in paths).encode())
            _read(connection, _AHEAD)
            requested += _AHEAD
        return requested / (time.monotonic() - started)


def _read(connection: socket.socket, responses: int) -> None:
    """Read the given number of responses completely."""
    pending = b""
    length = re.compile(rb"Content-Length: ([0-9]+)\r\n")
    while responses:
        head, end, rest = pending.partition(b"\r\n\r\n")
        if end:
            found = length.search(head)
            if not head.startswith(b"HTTP/1.1 200") or found is None:
                raise RuntimeError(f"unexpected response of the demo server: {head[:100]!r}")
            missing = int(found[1]) - len(rest)
            while missing > 0:
                block = connection.recv(1 << 18)
                rest += block
                missing -= len(block)
            pending = rest[int(found[1]) :]
            responses -= 1
        else:
            pending += connection.recv(1 << 18)


if __name__ == "__main__":
    main()
