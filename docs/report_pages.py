"""Make the report of a real run with failures, for the screenshots in the docs and for tests of the page."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from producer.local_fleet.demo_process import DemoProcess

#: Images of the demo server, in several formats and with different delays.
_KINDS = ("jpg", "png", "webp", "gif")
#: Faulty images of the demo server, each after this many other images.
_FAULTS = (
    "not-found",
    "html",
    "truncated",
    "drop-once",
    "server-error-once",
    "redirect-loop",
    "broken-image",
    "<script>alert(1)</script>",
)
_IMAGES_PER_FAULT = 45


def make_report(folder: Path, images: int) -> Path:
    """Download a list of the demo server's images with a local fleet, and return the run's report.

    Args:
        folder: an existing folder for the list and the run.
        images: the number of images. About one in 45 fails.
    """
    source, out = folder / "list.txt", folder / "images"
    with DemoProcess(latency=0.04) as server:
        urls = [
            f"{server.url}/images/{index}.{_KINDS[index % 4]}?latency={0.02 + (index * 37 % 100) / 700:.3f}"
            for index in range(images)
        ]
        for place in range(7, images, _IMAGES_PER_FAULT):
            urls[place] = f"{server.url}/fault/{_FAULTS[place // _IMAGES_PER_FAULT % len(_FAULTS)]}?for=report"
        source.write_text("\n".join(urls) + "\n", encoding="utf-8")
        argv = [sys.executable, "-m", "producer", "run", source.name, "--out", out.name, "--json"]
        env = {**os.environ, "IMAGEFLEET_ALLOW_NETWORKS": server.address, "IMAGEFLEET_REPORT": "on"}
        root = str(Path(__file__).parents[1])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
        options = ["--shard-size", "200", "--workers", "4", "--concurrency", "6", "--per-host-concurrency", "64"]
        subprocess.run([*argv, *options], env=env, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return out / "report.html"


def with_neutral_host(page: Path) -> Path:
    """Replace this machine's name in a report by "host", and return the report."""
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(f"{socket.gethostname()}:", "host:"), encoding="utf-8")
    return page
