"""Measure lists of several hosts: slow hosts, dead hosts, many hosts, and lists that are sorted by host.

``python -m benchmarks.hosts`` needs Linux. All addresses of 127.0.0.0/8 lead to one server, and each address counts as
a host. imagefleet has its default options, and img2dataset has as many threads as imagefleet has slots. The lists are
shuffled with a fixed seed, unless their order is what is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks import processes, records, ways
from benchmarks.host_server import QUEUE
from benchmarks.pictures import SMALL, create_gallery
from benchmarks.ways import Job
from benchmarks.workloads import BASE, IMAGEFLEET
from config import limits

_DIFFERENT_IMAGES = 100
#: The first parts of paths: their latency in milliseconds.
_FAST, _AT_ONCE, _SLOW = "50", "0", "1000"
_SEED = 15
#: The number of the host that is slow or dead. It is larger than the numbers of the other hosts of its list.
_SLOW_HOST = 2_000


@dataclass(frozen=True)
class Url:
    """The host, the first part of the path, which selects the latency, and the port if it is not the server's."""

    host: int
    kind: str
    port: int = 0


@dataclass(frozen=True)
class Case:
    """A list, and the first part of the paths whose last answer is timed."""

    about: str
    urls: Sequence[Url]
    shown: str = _FAST
    #: A host to which imagefleet sends one request per second; img2dataset can't do that.
    limited: int | None = None


def _hosts(number: int, images: int, kind: str = _FAST) -> list[Url]:
    """Return ``images`` URLs of each of ``number`` hosts, sorted by host."""
    return [Url(host, kind) for host in range(1, number + 1) for _ in range(images)]


def _shuffled(urls: Sequence[Url]) -> list[Url]:
    return random.Random(_SEED).sample(urls, len(urls))  # noqa: S311  # not for security


def cases(refused: int, silent: int) -> dict[str, Case]:
    """Return the lists by name.

    Args:
        refused: a port that refuses connections.
        silent: a port that does not answer.
    """
    sorted_list = _hosts(40, 100)
    mixed = _hosts(1_000, 8)
    slow = [Url(_SLOW_HOST, _SLOW)] * 300
    dead = [Url(_SLOW_HOST, _FAST, refused)] * 1_000
    quiet = [Url(_SLOW_HOST, _FAST, silent)] * 160
    return {
        "sorted": Case("40 hosts of 100 images, 50 ms latency, sorted by host", sorted_list),
        "shuffled": Case("the same list, shuffled", _shuffled(sorted_list)),
        "slow-first": Case(
            "300 images of a host with 1 s latency, then 300 of a host with 50 ms", [*slow, *_hosts(1, 300)]
        ),
        "no-slow": Case("1,000 hosts of 8 images, 50 ms latency", _shuffled(mixed)),
        "one-slow": Case(
            "the same list, and 30 images of a host that answers 1 image/s",
            _shuffled([*mixed, *[Url(_SLOW_HOST, QUEUE)] * 30]),
        ),
        "one-limited": Case(
            "the same list, and 30 images of a host limited to 1 image/s",
            _shuffled([*mixed, *[Url(_SLOW_HOST, _AT_ONCE)] * 30]),
            limited=_SLOW_HOST,
        ),
        "refused": Case(
            "1,000 images of 20 hosts, and 1,000 of a host that refuses connections",
            _shuffled([*_hosts(20, 50), *dead]),
        ),
        "silent": Case(
            "160 images of 20 hosts, and 160 of a host that does not answer",
            _shuffled([*_hosts(20, 8), *quiet]),
        ),
        "many": Case("5,000 hosts of 4 images, no latency, shuffled", _shuffled(_hosts(5_000, 4, _AT_ONCE)), _AT_ONCE),
    }


def measure(names: Sequence[str], repeat: int, folder: Path) -> dict[str, Any]:
    """Measure both programs in turns, and return the result as JSON-safe values."""
    pictures = create_gallery(SMALL, _DIFFERENT_IMAGES, folder / "pictures").folder
    threads = limits.CONCURRENCY
    programs = {IMAGEFLEET: ways.fleet("--workers", "2"), BASE: ways.img2dataset(2, threads)}
    with _unused_port() as refused, _silent_port() as silent:
        measured = cases(refused, silent)
        turns: dict[str, dict[str, list[Turn]]] = {name: {way: [] for way in programs} for name in names}
        for turn in range(repeat):
            for name in names:
                for way, program in programs.items():
                    place = folder / f"{name}-{way}-{turn}"
                    done = _run(way, program, measured[name], pictures, place)
                    turns[name][way].append(done)
                    print(f"{name}: {way}: {done}", file=sys.stderr, flush=True)
    return {
        "slots": 2 * threads,
        "cases": {
            name: {
                "about": measured[name].about,
                "images": len(measured[name].urls),
                "ways": {way: _row(found) for way, found in by_way.items()},
            }
            for name, by_way in turns.items()
        },
    }


@dataclass(frozen=True)
class Turn:
    """One run: seconds from start to exit, seconds from the first request to the last shown answer, saved images."""

    seconds: float
    shown_seconds: float
    saved: int


def _row(turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        "turns": len(turns),
        "seconds": records.spread([turn.seconds for turn in turns]),
        "shown_seconds": records.spread([turn.shown_seconds for turn in turns]),
        "saved": records.spread([turn.saved for turn in turns]),
    }


def _run(name: str, way: ways.Way, case: Case, pictures: Path, place: Path) -> Turn:
    place.mkdir()
    source, out = place / "urls.txt", place / "out"
    with _server(pictures) as (port, summary):
        source.write_text("".join(f"{_text(url, port, row)}\n" for row, url in enumerate(case.urls)), encoding="utf-8")
        env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.0/8", **way.env}
        command = [*way.command(Job(source, out, None, Path()))]
        if case.limited is not None and name == IMAGEFLEET:
            limits_file = place / "hosts.toml"
            limits_file.write_text(f'["{_address(case.limited)}"]\nrate = 1.0\n', encoding="utf-8")
            command += ["--host-limits", str(limits_file)]
        usage = processes.measure(command, env)
        _, shown_seconds = summary()[case.shown]
    return Turn(usage.seconds, shown_seconds, sum(1 for _ in out.rglob("*.jpg")))


def _address(host: int) -> str:
    return f"127.1.{host // 250}.{host % 250 + 1}"


def _text(url: Url, port: int, row: int) -> str:
    """Return a URL; ``row`` makes it different from all others."""
    return f"http://{_address(url.host)}:{url.port or port}/{url.kind}/{row % _DIFFERENT_IMAGES}.jpg?{row}"


@contextmanager
def _server(pictures: Path) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """Run the server; yield its port, and a function that stops it and returns what it counted."""
    command = [sys.executable, "-m", "benchmarks.host_server", str(pictures)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as server:
        output: IO[str] = server.stdout  # type: ignore[assignment]

        def summary() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(server.communicate()[0])
            return found

        try:
            yield int(output.readline()), summary
        finally:
            server.kill()


@contextmanager
def _unused_port() -> Iterator[int]:
    """Yield a port that refuses connections: it is bound, but does not listen."""
    with socket.socket() as bound:
        bound.bind((_address(_SLOW_HOST), 0))
        yield int(bound.getsockname()[1])


@contextmanager
def _silent_port() -> Iterator[int]:
    """Yield a port that drops connections: its queue of new connections is full, and nobody accepts them."""
    listener, waiting = socket.socket(), [socket.socket() for _ in range(4)]
    try:
        listener.bind((_address(_SLOW_HOST), 0))
        listener.listen(0)
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
    finally:
        for opened in (listener, *waiting):
            opened.close()


def main() -> None:
    """Measure, print each turn, and save the result."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    names = list(cases(0, 0))
    parser.add_argument("--case", action="append", choices=names, help="repeatable; default: all")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
        result = measure(arguments.case or names, arguments.repeat, Path(folder))
    print(json.dumps(result, indent=2))
    if not arguments.case:
        print(f"written to {records.save('hosts', result)}")


if __name__ == "__main__":
    main()
