"""``python -m tests.integration.slow_names SCENARIO FOLDER``: make a run with a bad name server inside a namespace.

A DNS server and a web server run in this process. The program prints the run's report, the reasons of the
failures, the median time in a slot, and the number of queries for each name's IPv4 address.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from tests.encoding import encoded
from tests.integration.name_server import NameServer
from tests.unit.conftest import Canned, always, response

_HERE = "127.0.0.1"


@dataclass(frozen=True)
class Scenario:
    """A list and the behaviour of the name server.

    Attributes:
        hosts: the host of each image.
        unknown: the prefix of the names that don't exist.
        silent: the prefix of the names whose queries get no answer.
        latency: the seconds that each answer takes.
        ignore_every: of this many queries, the last one is ignored.
        outage: the seconds from the first query during which the server answers nothing.
        options: options of the run.
    """

    hosts: tuple[str, ...]
    unknown: str = "unknown"
    silent: str = "silent"
    latency: float = 0.0
    ignore_every: int = 0
    outage: float = 0.0
    options: tuple[str, ...] = ()


def _names(kind: str, number: int) -> tuple[str, ...]:
    return tuple(f"{kind}{index}.example" for index in range(number))


SCENARIOS = {
    # 500 slow names on 16 slots, which could resolve only 32 names per second themselves.
    "slow": Scenario(_names("host", 500), latency=0.5),
    "lossy": Scenario(_names("host", 100), ignore_every=2),
    "unknown": Scenario(tuple(f"unknown{number % 20}.example" for number in range(2000)) + _names("host", 100)),
    "outage": Scenario(_names("host", 50), outage=5.0, options=("--timeout", "4", "--retries", "3")),
    # The silent names come first. Each of them takes the resolver two seconds.
    "silent": Scenario(_names("silent", 48) + _names("host", 200), options=("--retries", "0")),
}


def main(scenario: Scenario, folder: Path) -> None:
    """Make the run, and print its results."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    known = {name: [[_HERE]] for name in scenario.hosts if not name.startswith(scenario.unknown)}
    faults: dict[tuple[str, int], int | None] = {
        (name, family): None for name in known if name.startswith(scenario.silent) for family in (4, 6)
    }
    server = NameServer(known, (_HERE, 53), faults, scenario.latency)
    server.ignore_every = scenario.ignore_every
    if scenario.outage:
        server.ignore_every = 1
        threading.Thread(target=_end_outage, args=(server, scenario.outage), daemon=True).start()
    body = encoded(Image.new("RGB", (4, 3), "red"), "PNG")
    with Canned(always(response(body))) as web:
        source, out = folder / "urls.txt", folder / "out"
        urls = [f"http://{host}:{web.port}/{number}.png" for number, host in enumerate(scenario.hosts)]
        source.write_text("".join(f"{url}\n" for url in urls))
        argv = [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--workers", "1", "--json"]
        env = {**os.environ, "IMAGEFLEET_ALLOW_NETWORKS": _HERE}
        done = subprocess.run(
            [*argv, *scenario.options], env=env, capture_output=True, text=True, timeout=200, check=False
        )
    rows = [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    facts = {
        "code": done.returncode,
        "err": done.stderr,
        "report": json.loads(done.stdout or "{}"),
        "reasons": Counter(row["reason"] for row in rows),
        "slot_seconds": statistics.median(row["fetch_seconds"] for row in rows if row["reason"] is None),
        "queries": {name: server.queried[name, 4] for name, _ in server.queried},
    }
    print(json.dumps(facts))


def _end_outage(server: NameServer, seconds: float) -> None:
    while not server.queried:
        time.sleep(0.01)
    time.sleep(seconds)
    server.ignore_every = 0


if __name__ == "__main__":
    main(SCENARIOS[sys.argv[1]], Path(sys.argv[2]))
