"""Images a second, CPU for each image and peak memory: the fleet and the threads baseline over nginx, in turns.

``python -m benchmarks.throughput`` fetches 20,000 different pictures of 15 KB five times each way, checks that every
file is right, and writes ``benchmarks/results/throughput.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness

_THREADS = 32


def main() -> None:
    """Measure, print a table, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as scratch:
        rows = _measure(Path(scratch), arguments.images, arguments.repeat)
    result = {"images": arguments.images, "repeat": arguments.repeat, "ways": rows}
    path = harness.keep("throughput", result)
    for name, row in rows.items():
        print(
            f"{name:10} {row['images_per_second']['median']:8.0f} images/s  {row['cpu_ms_per_image']} ms CPU an image"
        )
    print(f"written to {path}")


def _measure(scratch: Path, images: int, repeat: int) -> dict[str, Any]:
    pictures = scratch / "pictures"
    size = harness.write_pictures(pictures, images)
    runs: dict[str, list[dict[str, Any]]] = {"fleet": [], "threads": []}
    with harness.nginx(pictures, scratch / "nginx") as url:
        names = scratch / "urls.txt"
        names.write_text("".join(f"{url}/{index}.jpg\n" for index in range(images)))
        env = {"IMAGEFLEET_ALLOW_NETWORKS": url.removeprefix("http://")}
        for turn in range(repeat):
            for name in runs:
                out = scratch / f"{name}-{turn}"
                measured = harness.measure(_command(name, names, out), env)
                _check(out, pictures, images)
                shutil.rmtree(out)
                report = json.loads(measured.output)
                runs[name].append(
                    {
                        "images_per_second": images / report["wall_seconds"],
                        "cpu_ms": {role: seconds / images * 1000 for role, seconds in measured.cpu.items()},
                        "peak_mib": measured.peak_memory / 2**20,
                    }
                )
                print(f"turn {turn + 1}: {name}: {runs[name][-1]['images_per_second']:.0f} images/s", file=sys.stderr)
    rows = {name: _row(found) for name, found in runs.items()}
    rows["fleet"]["workers"], rows["threads"]["threads"] = os.cpu_count(), _THREADS
    return {name: {**row, "bytes_per_image": round(size / images)} for name, row in rows.items()}


def _command(name: str, source: Path, out: Path) -> list[str]:
    if name == "fleet":
        return [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--json"]
    return [sys.executable, "-m", "benchmarks.threads", str(source), str(out), str(_THREADS)]


def _check(out: Path, pictures: Path, images: int) -> None:
    """Make sure that every picture arrived as it was sent."""
    for index in range(images):
        shard = index // 1000
        saved = out / f"{shard:05d}" / f"{shard:05d}{index % 1000:03d}.jpg"
        if saved.read_bytes() != (pictures / f"{index}.jpg").read_bytes():
            raise RuntimeError(f"{saved} is not what was sent")


def _row(found: list[dict[str, Any]]) -> dict[str, Any]:
    roles = sorted({role for run in found for role in run["cpu_ms"]})
    middle = {role: harness.spread([run["cpu_ms"].get(role, 0.0) for run in found])["median"] for role in roles}
    return {
        "images_per_second": harness.spread([run["images_per_second"] for run in found]),
        "cpu_ms_per_image": {role: round(value, 3) for role, value in middle.items()},
        "peak_mib": harness.spread([run["peak_mib"] for run in found]),
    }


if __name__ == "__main__":
    main()
