"""Serve Pillow's own test images, download them with a fleet, and compare the results with the documented ones.

``python -m tests.pillow`` installs nothing, and downloads the images once. The fleet fetches the images twice. The
first time, it decodes every frame. The second time, it resizes the images. Every worker process must survive both.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

import click

from producer.local_fleet.fleet import Fleet, FleetSize
from tests.integration import processes
from tests.pillow.counts import COUNTS, REASONS, RUNS, kind_of
from tests.upstream import sources

#: The folder of the images, which git ignores.
FOLDER = processes.ROOT / ".pillow"
_PATIENCE = 900.0
_SIZE = FleetSize(workers=2, concurrency=8)


def fetched(name: str, images: list[str], port: int, folder: Path, broker_url: str) -> list[dict[str, Any]]:
    """Return the row of each image in the manifest of a run.

    Raises:
        click.ClickException: the run did not finish.
    """
    source, out = folder / "list.txt", folder / name
    source.write_text("".join(f"http://127.0.0.1:{port}/{quote(image)}\n" for image in images))
    ended = processes.producer(
        *("run", source, "--out", out, "--broker", broker_url, "--retries", "0", "--json", *RUNS[name]),
        seconds=_PATIENCE,
    )
    rows = processes.rows(out)
    if len(rows) != len(images):
        raise click.ClickException(f"{name}: {len(rows)} of {len(images)} images have results: {ended.err}")
    return rows


def counted(images: list[str], rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return the number of results of each kind for each kind of file."""
    counts: dict[str, Counter[str]] = {}
    for image, row in zip(images, rows, strict=True):
        counts.setdefault(kind_of(image), Counter())[row["reason"] or "success"] += 1
    return {kind: dict(sorted(counts[kind].items())) for kind in sorted(counts)}


def wrong(images: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Return the images whose result no image is allowed to have."""
    return [
        f"{image}: {row['reason']}: {row['error_message']}"
        for image, row in zip(images, rows, strict=True)
        if row["reason"] is not None and row["reason"] not in REASONS
    ]


@click.command()
@click.option("--keep", is_flag=True, help="Store the numbers, for `make docs`.")
def main(keep: bool) -> None:
    """Download every test image of Pillow with a local fleet."""
    for program in ("redis-server", "nginx"):
        if shutil.which(program, path="/usr/sbin:/usr/local/sbin") is None and shutil.which(program) is None:
            raise click.ClickException(f"{program} is not installed on this machine")
    files = sources.unpacked("pillow", FOLDER, "src") / "Tests" / "images"
    images = sorted(path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file())
    counts: dict[str, Any] = {"version": version("pillow")}
    faults = []
    with tempfile.TemporaryDirectory() as name, processes.nginx(Path(name), files) as port:
        folder = Path(name)
        with Fleet(_SIZE, [folder], ["127.0.0.1"]) as fleet:
            pids = fleet.pids
            for run in RUNS:
                started = monotonic()
                rows = fetched(run, images, port, folder, fleet.broker_url)
                counts[run] = counted(images, rows)
                faults += [f"{run}: {line}" for line in wrong(images, rows)]
                saved = sum(row["reason"] is None for row in rows)
                click.echo(f"{run}: {saved} of {len(images)} images saved, in {monotonic() - started:.0f} s")
                (FOLDER / f"{run}.json").write_text(json.dumps(rows, indent=1, default=str))
            for log in fleet.folder.glob("worker-*.log"):
                shutil.copy(log, FOLDER)
                faults += [f"{log.name}: {line}" for line in log.read_text().splitlines() if "PIL" in line]
            if fleet.restarts or fleet.pids != pids:
                faults.append(f"worker processes died: {fleet.restarts}")
    if keep:
        COUNTS.write_text(json.dumps(counts, indent=2) + "\n")
    elif not COUNTS.exists() or json.loads(COUNTS.read_text()) != counts:
        faults.append("the numbers differ from docs/security.md; to store them, run: python -m tests.pillow --keep")
    if faults:
        raise click.ClickException("\n".join(faults))


if __name__ == "__main__":
    main()
