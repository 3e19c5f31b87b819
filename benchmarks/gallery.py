"""Measure the gallery of a run with a million images: ``python -m benchmarks.gallery``.

The run's folder is made without downloads. Its manifests are real, and the images of the measured pages exist. For each
kind of page, a new gallery is started. A page counts as loaded when the page and its 60 images have arrived over one
connection. If a page is not ready at once, the client asks for the progress as the page's script does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from PIL import Image

from benchmarks import records, turns
from benchmarks.records import spread
from producer.gallery.gallery import PAGE_SIZE
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from tasks.model import ImageRequest, Outcome, Reason, Status, image_key
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.encoding import encoded

_SHARD_SIZE, _HOSTS, _RARE, _FAILED = 1000, 997, 100_000, 50
_RUN_ID = "20260101-000000-abcdef"
_SHOWN = re.compile(r'src="(file/\d+/\d+)"')


@dataclass
class Loaded:
    """Repeated measurements of one kind of page, in seconds."""

    first: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)


class Client:
    """A browser that keeps one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=60)
        self._root = parts.path

    def load(self, query: str) -> float:
        """Load a page and its images; return the seconds until all have arrived."""
        started = time.monotonic()
        page = self._get(f"?{query}")
        while " data-waits" in page:
            while not json.loads(self._get(f"progress?{query}"))["ready"]:
                pass
            page = self._get(f"?{query}")
        for path in _SHOWN.findall(page):
            self._get(path)
        return time.monotonic() - started

    def _get(self, path: str) -> str:
        self._connection.request("GET", self._root + path)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: status {response.status}")
        return body.decode("latin-1")


def create_run(store: LocalStore, images: int) -> None:
    """Make the folder of a finished run with this many rows. Every image is the same file of about 15 KB."""
    body = encoded(Image.effect_noise((160, 160), 60).convert("RGB"), "JPEG")
    store.create("image.jpg", body)
    shards = images // _SHARD_SIZE
    config = RunConfig(shard_size=_SHARD_SIZE)
    RunFile(
        _RUN_ID, "list.txt", store.location, config,
        plan=PlanState.COMPLETE, planned_rows=images, planned_shards=shards, state=State.COMPLETE,
    ).create(store)  # fmt: skip
    for shard in range(shards):
        indexes = range(shard * _SHARD_SIZE, (shard + 1) * _SHARD_SIZE)
        ref = ShardRef(_RUN_ID, shard)
        table = plan.decode(plan.encode([ImageRequest(index, _url(index)) for index in indexes], ref))
        outcomes = [_outcome(index, len(body)) for index in indexes]
        store.create(manifest.name(shard), manifest.encode(table, outcomes, ref))


def _url(index: int) -> str:
    host = "rare" if index % _RARE == _RARE - 1 else f"host-{index % _HOSTS}"
    return f"https://{host}.example/images/{index:09d}.jpg"


def _outcome(index: int, size: int) -> Outcome:
    key = image_key(index, _SHARD_SIZE)
    if index % _FAILED == 0:
        return Outcome(key, Status.FAILED_TO_DOWNLOAD, Reason.HTTP_4XX, "HTTP 404 Not Found", finished_at=100.0)
    return Outcome(
        key, Status.SUCCESS, path="image.jpg", bytes=size, width=160, height=160, format="jpeg",
        sha256=f"{index:064x}", http_status=200, attempts=1, fetch_seconds=0.1, finished_at=100.0, worker="w",
    )  # fmt: skip


@contextmanager
def served(out: Path) -> Iterator[tuple[Client, psutil.Process]]:
    """Run the gallery of a folder; yield a client and the server's process."""
    argv = [sys.executable, "-m", "producer", "gallery", str(out)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        try:
            yield Client(process.stdout.readline().split()[-1]), psutil.Process(process.pid)
        finally:
            process.terminate()


def measure(out: Path, images: int, repeat: int) -> dict[str, Any]:
    """Return the times of each kind of page, and the largest memory of a server in MiB."""
    last = -(-images // PAGE_SIZE)
    kinds = {
        "the first page, then the second": ("page=1", "page=2"),
        "the last page, then the one before": (f"page={last}", f"page={last - 1}"),
        f"failed images (1 in {_FAILED}), then their second page": ("reason=http_4xx", "reason=http_4xx&page=2"),
        f"one host (1 in {_HOSTS:,}), then its second page": ("host=host-7.example", "host=host-7.example&page=2"),
        f"a rare host (1 in {_RARE:,}), twice": ("host=rare.example", "host=rare.example"),
    }
    times = {name: Loaded() for name in kinds}
    memory = 0.0
    for _ in range(repeat):
        for name, (first, second) in kinds.items():
            with served(out) as (client, server):
                times[name].first.append(client.load(first))
                times[name].again.append(client.load(second))
                memory = max(memory, server.memory_info().rss / 2**20)
    pages = {name: {"first": spread(found.first), "again": spread(found.again)} for name, found in times.items()}
    return {"pages": pages, "memory_mib": memory}


def main() -> None:
    """Measure, print and save the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="turns per kind of page")
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="folder for the JSON")
    arguments = parser.parse_args()
    with turns.scratch() as folder:
        create_run(LocalStore(folder), arguments.images)
        result = measure(folder, arguments.images, arguments.repeat)
    for name, found in result["pages"].items():
        print(f"{name:60} {found['first']['median']:8.3f} s {found['again']['median']:8.3f} s")
    print(f"memory: {result['memory_mib']:.0f} MiB")
    record = {"images": arguments.images, "repeat": arguments.repeat, **result}
    print(f"written to {records.save('gallery', record, arguments.results)}")


if __name__ == "__main__":
    main()
