"""Measure the size of the Docker image and the time from ``docker compose up`` to the first saved image.

``python -m benchmarks.compose`` builds the Docker image. Then, five times, it starts the whole stack from nothing,
saves one image and takes the stack down. It writes ``benchmarks/results/compose.json``. It needs a Docker Engine with
Compose, and the Docker image of Redis must be present already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import records

_ROOT = Path(__file__).parents[1]
_GIT = shutil.which("git") or "git"
_DOCKER = shutil.which("docker") or "docker"
_PROJECT = "imagefleet-benchmark"
_URL = "http://demo:8765/images/0.jpg?latency=0"


def main() -> None:
    """Measure, print the numbers, and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagefleet-benchmark-") as scratch:
        folder = Path(scratch) / "checkout"
        _output([_GIT, "clone", "-q", str(_ROOT), str(folder)])
        _compose(folder, "build", "-q")
        found = [_start(folder) for _ in range(arguments.repeat)]
    size = int(_output([_DOCKER, "image", "inspect", "imagefleet", "--format", "{{.Size}}"]))
    result = {
        "repeat": arguments.repeat,
        "image_mb": size / 1e6,
        "ready_seconds": records.spread([ready for ready, _ in found]),
        "first_image_seconds": records.spread([first for _, first in found]),
    }
    path = records.save("compose", result)
    print(json.dumps(result, indent=2))
    print(f"written to {path}")


def _start(folder: Path) -> tuple[float, float]:
    """Start the stack; return two times in seconds: until the stack was healthy, and until an image was saved."""
    started = time.monotonic()
    try:
        _compose(folder, "up", "-d", "--wait", "--scale", "worker=2")
        ready = time.monotonic() - started
        _compose(folder, "run", "--rm", "-T", "producer", "run", "-", "--out", "/images/first", stdin=_URL)
        first = time.monotonic() - started
        if not (folder / "images/first/00000/00000000.jpg").exists():
            raise RuntimeError("the image was not saved")
    finally:
        _compose(folder, "down", "-v", "--timeout", "20")
        shutil.rmtree(folder / "images" / "first", ignore_errors=True)
    return ready, first


def _compose(folder: Path, *arguments: str, stdin: str = "") -> None:
    argv = [_DOCKER, "compose", "-p", _PROJECT, *arguments]
    env = {**os.environ, "FLOWER_PORT": "0"}
    done = subprocess.run(
        argv, cwd=folder, env=env, input=stdin, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed with {done.returncode}:\n{done.stderr[-2000:]}")


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, encoding="utf-8").stdout


if __name__ == "__main__":
    main()
