"""Record a run, the demo and a sweep for the documentation, in ``docs/examples/`` (``make examples``).

Use a plain installation on an idle machine. If pandas is installed, pyarrow imports it in each worker at the end of the
first shard, which delays the end of the demo.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from producer.local_fleet.demo_process import DemoProcess

FOLDER = Path(__file__).with_name("examples")
_HOME = "/home/you"
#: The list and the fleet of the sweep, as in docs/compare.md.
_SWEEP = ("--images", "300", "--latency", "100ms", "--workers", "4")


def main() -> None:
    """Execute ``producer run`` and ``producer demo`` in an empty folder, and save their output and charts."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, DemoProcess(latency=0.05) as server:
        urls = [f"{server.url}/images/{index}.jpg" for index in range(2500)]
        urls[7], urls[1500], urls[1501] = f"{server.url}/fault/not-found", f"{server.url}/fault/html", "not a url"
        (Path(place) / "urls.txt").write_text("\n".join(urls), encoding="utf-8")
        _keep("run", ["run", "urls.txt", "--out", "images"], place, {"IMAGEFLEET_ALLOW_NETWORKS": server.address})
        _keep("demo", ["demo"], place, {})
        _keep("sweep", ["demo", *_SWEEP, "--sweep", "--out", "sweep"], place, {})
        for name, folder in (("demo", "imagefleet-demo"), ("sweep", "sweep")):
            shutil.copy(Path(place, folder, "comparison.svg"), FOLDER / f"{name}.svg")


def _keep(name: str, command: list[str], place: str, env: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "producer", *command]
    shown = subprocess.run(
        argv, cwd=place, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8"
    )
    lines = [line.rstrip() for line in shown.stdout.replace(os.path.realpath(place), _HOME).splitlines()]
    text = re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip("\n")
    (FOLDER / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
