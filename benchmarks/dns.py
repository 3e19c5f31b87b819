"""Measure a list of many hosts with a slow name server: imagefleet, and plain threads as in img2dataset.

``python -m benchmarks.dns`` needs nginx and Linux. Each image is on a host of its own. The name server takes 500 ms for
each answer. All programs run in a network namespace whose `/etc/resolv.conf` names this server. img2dataset calls
`urllib.request.urlopen` in threads, and so `socket.getaddrinfo` for each image. The baseline does the same, and
discards the images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import processes, records, web
from benchmarks.pictures import SMALL, create_gallery

_NAMES = 10_000
_ANSWER_SECONDS = 0.5
_DIFFERENT_IMAGES = 100
#: The options of each measured run, by the number of slots.
_FLEETS = {
    "imagefleet, 2 workers of 16 slots": ("--workers", "2"),
    "imagefleet, 1 worker of 32 slots": ("--workers", "1", "--concurrency", "32"),
}
_THREADS = 32
_RESOLVER = "nameserver 127.0.0.1\noptions timeout:5 attempts:2\n"
_ADDRESS_RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04\x7f\x00\x00\x01"
_HEADER_BYTES = 12


def serve_names() -> None:
    """Answer each query for an IPv4 address with 127.0.0.1 and all other queries with no record, after a delay."""
    queries: deque[tuple[float, bytes, Any]] = deque()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            if not queries:
                time.sleep(0.001)
                continue
            due, query, sender = queries.popleft()
            time.sleep(max(due - time.monotonic(), 0))
            question = query[_HEADER_BYTES : query.index(b"\0", _HEADER_BYTES) + 5]
            found = question[-3] == 1
            head = query[:2] + b"\x81\x80\x00\x01\x00" + (b"\x01" if found else b"\x00") + b"\x00\x00\x00\x00"
            server.sendto(head + question + (_ADDRESS_RECORD if found else b""), sender)

    threading.Thread(target=answer, daemon=True).start()
    print("ready", flush=True)
    while True:
        query, sender = server.recvfrom(512)
        queries.append((time.monotonic() + _ANSWER_SECONDS, query, sender))


def measure(names: int, folder: Path) -> dict[str, Any]:
    """Measure all ways inside the namespace, and return the result as JSON-safe values."""
    ip = shutil.which("ip") or "/sbin/ip"
    subprocess.run([ip, "link", "set", "lo", "up"], check=True)
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.dns", "serve"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    gallery = create_gallery(SMALL, _DIFFERENT_IMAGES, folder / "pictures")
    rates = {}
    try:
        with web.serve(gallery.folder, folder / "nginx", tls=False) as site:
            port = site.address.rpartition(":")[2]
            urls = [f"http://h{name}.example:{port}/{name % _DIFFERENT_IMAGES}.jpg" for name in range(names)]
            for number, (way, options) in enumerate(_FLEETS.items()):
                rates[way] = names / _fleet(urls, folder / f"fleet-{number}", options)
                print(f"{way}: {rates[way]:.0f} images/s", file=sys.stderr, flush=True)
            way = f"{_THREADS} threads, as in img2dataset"
            rates[way] = names / _threads(urls)
            print(f"{way}: {rates[way]:.0f} images/s", file=sys.stderr, flush=True)
    finally:
        server.kill()
        server.wait()
    return {"names": names, "answer_ms": _ANSWER_SECONDS * 1000, "images_per_second": rates}


def _fleet(urls: Sequence[str], place: Path, options: Sequence[str]) -> float:
    """Return the seconds of a run with a local fleet."""
    place.mkdir()
    source = place / "urls.txt"
    source.write_text("".join(f"{url}\n" for url in urls), encoding="utf-8")
    command = [sys.executable, "-m", "producer", "run", str(source), "--out", str(place / "out"), "--json", *options]
    report = json.loads(processes.measure(command, {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}).output)
    if report["success"] != len(urls):
        raise RuntimeError(f"{report['failed']} images failed: {report['reasons']}")
    return float(report["wall_seconds"])


def _threads(urls: Sequence[str]) -> float:
    """Return the seconds to download with threads, each of which resolves its own names."""

    def download(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  # our own http server
            body: bytes = response.read()
            return body

    began = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        for body in pool.map(download, urls):
            assert body
    return time.monotonic() - began


def main() -> None:
    """Start the measurement in a new namespace, and save its result."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--names", type=int, default=_NAMES)
    parser.add_argument("step", nargs="?", choices=("serve", "measure"))
    arguments = parser.parse_args()
    if arguments.step == "serve":
        serve_names()
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.step == "measure":
            print(json.dumps(measure(arguments.names, folder)))
            return
        (folder / "resolv.conf").write_text(_RESOLVER, encoding="utf-8")
        options = ["--net", "--mount"] if os.geteuid() == 0 else ["--net", "--mount", "--user", "--map-root-user"]
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        again = [sys.executable, "-m", "benchmarks.dns", "measure", "--names", str(arguments.names)]
        unshare = shutil.which("unshare") or "/usr/bin/unshare"
        done = subprocess.run(
            [unshare, *options, "sh", "-c", script, str(folder / "resolv.conf"), *again],
            stdout=subprocess.PIPE,
            check=True,
        )
    result = json.loads(done.stdout)
    print(json.dumps(result, indent=2))
    if arguments.names == _NAMES:
        records.save("dns", result)


if __name__ == "__main__":
    main()
