"""Measure how long the report of a run takes, and how large it is: 10,000, 100,000 and 1,000,000 images.

``python -m benchmarks.run_report`` makes the folder of a run of each size, without a fleet, and writes its report in a
new process. The manifests are those of a real run: 1,000 images a shard, images from 20,000 hosts, and one in thirty
failed. The saved images are photos of 160 KB, so that the thumbnails take as long as in a real run.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import records
from benchmarks.pictures import LARGE, create_gallery
from producer.output.run_file import PlanState, RunConfig, RunFile, State
from tasks.model import ImageRequest, Outcome, Reason, Status, image_key
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef

_NAME = "run-report"
_RUN_ID, _START = "20260101-000000-abcdef", 1_767_225_600.0
_SHARD_SIZE, _HOSTS, _WORKERS, _PICTURES = 1000, 20_000, 16, 400
_RATE, _FAILED_SHARE = 1500.0, 1 / 30
_REASONS = (Reason.TIMEOUT, Reason.HTTP_4XX, Reason.DNS, Reason.NOT_IMAGE, Reason.HTTP_5XX)


def main() -> None:
    """Measure each size, print a line, and save the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    sizes = {}
    for images in arguments.images:
        with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as folder:
            out = Path(folder) / "out"
            _make_run(out, images)
            measured = [_measure(out) for _ in range(arguments.repeat)]
        sizes[str(images)] = {
            "seconds": records.spread([row[0] for row in measured]),
            "memory_mib": round(median(row[1] for row in measured)),
            "bytes": measured[0][2],
        }
        print(f"{images:,} images: {sizes[str(images)]}")
    print(f"written to {records.save(_NAME, {'repeat': arguments.repeat, 'sizes': sizes})}")


def _make_run(out: Path, images: int) -> None:
    """Make the folder of a complete run."""
    out.mkdir()
    store = LocalStore(out)
    shards = -(-images // _SHARD_SIZE)
    seconds = images / _RATE
    totals = {"wall_seconds": seconds, "fetched": images, "workers": _WORKERS, "concurrency": _WORKERS * 16}
    record = RunFile(_RUN_ID, "list.txt", str(out), RunConfig(), started_at=_START)
    record = replace(record, plan=PlanState.COMPLETE, planned_rows=images, planned_shards=shards)
    replace(record, state=State.COMPLETE, finished_at=_START + seconds, totals=totals).create(store)
    pictures = [
        f"00000/{path.name}" for path in sorted(create_gallery(LARGE, _PICTURES, out / "00000").folder.iterdir())
    ]
    source = random.Random(1)  # noqa: S311  # the same images in each measurement
    for shard in range(shards):
        places = range(shard * _SHARD_SIZE, min((shard + 1) * _SHARD_SIZE, images))
        ref = ShardRef(_RUN_ID, shard)
        requests = [
            ImageRequest(
                place, f"https://images{source.randrange(_HOSTS)}.example.org/pictures/{place:07d}/large.jpg?v=2"
            )
            for place in places
        ]
        outcomes = [_outcome(place, pictures, source) for place in places]
        table = plan.decode(plan.encode(requests, ref))
        store.create_durably(manifest.name(shard), manifest.encode(table, outcomes, ref))


def _outcome(place: int, pictures: list[str], source: random.Random) -> Outcome:
    """Return the Outcome of an image."""
    phases = tuple(int(1e6 * source.lognormvariate(mean, 0.7)) for mean in (1.0, -4.0, -2.5, -4.5, -7.0, -7.5))
    seconds = round(sum(phases[1:]) / 1e6, 4)
    facts = {
        "attempts": 1,
        "fetch_seconds": seconds,
        "finished_at": round(_START + place / _RATE + seconds, 3),
        "worker": f"host-{place % _WORKERS // 4}:{1000 + place % _WORKERS}",
        "phases": phases,
    }
    key = image_key(place, _SHARD_SIZE)
    if source.random() < _FAILED_SHARE:
        reason = source.choice(_REASONS)
        text = "the server sent HTTP 404 for this image, and says that it was moved"
        return Outcome(key, reason.status, reason, text, http_status=404, **facts)  # type: ignore[arg-type]
    saved = {
        "path": pictures[place % len(pictures)],
        "width": 1280 - place % 97,
        "height": 853,
        "format": "jpeg",
        "bytes": int(source.lognormvariate(11.9, 0.5)),
        "sha256": f"{source.getrandbits(256):064x}",
        "http_status": 200,
        "etag": f'"{source.getrandbits(64):x}"',
    }
    return Outcome(key, Status.SUCCESS, **facts, **saved)  # type: ignore[arg-type]


def _measure(out: Path) -> tuple[float, float, int]:
    """Write the report in a new process; return its seconds, its memory in MiB, and the size of the page in bytes."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "producer", "report", str(out)], stdout=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - started
    # The largest process so far, in KiB. The sizes are measured in ascending order.
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return seconds, memory, (out / "report.html").stat().st_size


if __name__ == "__main__":
    main()
