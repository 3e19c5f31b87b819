"""What the demo image server serves a second, so that nobody measures it in place of a downloader.

``python -m benchmarks.demo_server`` asks for drawn pictures over kept connections, many requests ahead, and for new
ones; it writes ``benchmarks/results/demo-server.json``.
"""

from __future__ import annotations

import re
import socket
import time

from benchmarks import records
from producer.demo_process import DemoProcess

_AHEAD = 64
_SECONDS = 3.0
_REPEAT = 5
_READY = 100


def main() -> None:
    """Measure, print a line, and keep the result."""
    with DemoProcess(ready=_READY) as server:
        drawn = [_rate(server, first=0, known=_READY) for _ in range(_REPEAT)]
        new = [_rate(server, first=1_000_000 * (turn + 1), known=0) for turn in range(_REPEAT)]
    path = records.keep(
        "demo-server",
        {"repeat": _REPEAT, "drawn_per_second": records.spread(drawn), "new_per_second": records.spread(new)},
    )
    print(f"{records.spread(drawn)['median']:,.0f} drawn, {records.spread(new)['median']:,.0f} new pictures a second")
    print(f"written to {path}")


def _rate(server: DemoProcess, first: int, known: int) -> float:
    """Return the pictures a second over one connection; ``known`` pictures are asked for again and again, or none."""
    host, _, port = server.address.partition(":")
    asked = 0
    with socket.create_connection((host, int(port))) as connection:
        started = time.monotonic()
        while time.monotonic() - started < _SECONDS:
            # Every fourth picture is a JPEG, and those alone are asked for: 15 KB each.
            numbers = [first + 4 * (asked + step) for step in range(_AHEAD)]
            paths = [f"/images/{number % known if known else number}.jpg" for number in numbers]
            connection.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n" for path in paths).encode())
            _read(connection, _AHEAD)
            asked += _AHEAD
        return asked / (time.monotonic() - started)


def _read(connection: socket.socket, answers: int) -> None:
    """Read so many answers to their end."""
    pending = b""
    length = re.compile(rb"Content-Length: ([0-9]+)\r\n")
    while answers:
        head, end, rest = pending.partition(b"\r\n\r\n")
        if end:
            found = length.search(head)
            if not head.startswith(b"HTTP/1.1 200") or found is None:
                raise RuntimeError(f"the demo server answered {head[:100]!r}")
            missing = int(found[1]) - len(rest)
            while missing > 0:
                block = connection.recv(1 << 18)
                rest += block
                missing -= len(block)
            pending = rest[int(found[1]) :]
            answers -= 1
        else:
            pending += connection.recv(1 << 18)


if __name__ == "__main__":
    main()
