"""imagefleet and its peers over the same pictures: img2dataset, aria2, curl and plain threads, in turns.

``make bench`` runs it: 20,000 different JPEG pictures of 15 KB from nginx on this machine, kept as they are, five times
each way. img2dataset first gets its best of a few numbers of processes and threads. Every file is compared with what
was sent. Writes ``benchmarks/results/peers.json``; `make docs` makes the README's table of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import harness, turns

_ROOT = Path(__file__).parents[1]
IMG2DATASET = Path(os.environ.get("IMG2DATASET", _ROOT / ".bench" / "bin" / "img2dataset"))
#: Processes and threads that img2dataset is tried with.
_SWEEP = ((2, 16), (2, 32), (2, 64), (4, 16), (4, 32), (4, 64))
#: Seconds of a sweep are few: a tenth of the pictures, once each.
_TENTH = 10


def main() -> None:
    """Measure, print a table, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with turns.scratch() as folder:
        best, sweep = _best(max(arguments.images // _TENTH, 1000), folder)
        ways = {
            "imagefleet": turns.Way(turns.fleet),
            "img2dataset": _img2dataset(*best),
            "aria2": turns.Way(_aria2),
            "curl": turns.Way(_curl),
            "threads": turns.Way(turns.threads),
        }
        rows = turns.measured(ways, arguments.images, arguments.repeat, folder)
    base = rows["img2dataset"]["of_command"]["median"]
    for row in rows.values():
        row["ratio"] = round(row["of_command"]["median"] / base, 3)
    result: dict[str, Any] = {
        "images": arguments.images,
        "repeat": arguments.repeat,
        "img2dataset_sizes": {"best": best, "images_per_second": sweep},
        "versions": _versions(),
        "ways": rows,
    }
    path = harness.keep("peers", result)
    turns.show(rows)
    print(f"written to {path}")


def _best(images: int, folder: Path) -> tuple[tuple[int, int], dict[str, float]]:
    """Return the processes and threads with which img2dataset is fastest, and how fast each was."""
    ways = {f"{processes} x {threads}": _img2dataset(processes, threads) for processes, threads in _SWEEP}
    rows = turns.measured(ways, images, 1, folder)
    found = {name: row["of_command"]["median"] for name, row in rows.items()}
    fastest = max(found, key=lambda name: found[name])
    return _SWEEP[list(ways).index(fastest)], found


def _img2dataset(processes: int, threads: int) -> turns.Way:
    def command(source: Path, out: Path) -> list[str]:
        return [
            str(IMG2DATASET),
            *("--url_list", str(source), "--input_format", "txt"),
            *("--output_folder", str(out), "--output_format", "files", "--number_sample_per_shard", "1000"),
            *("--processes_count", str(processes), "--thread_count", str(threads)),
            *("--resize_mode", "no", "--disable_all_reencoding", "True", "--enable_wandb", "False"),
        ]

    return turns.Way(command, {"NO_ALBUMENTATIONS_UPDATE": "1"})


def _aria2(source: Path, out: Path) -> list[str]:
    quiet = ("--quiet", "--console-log-level=error", "--summary-interval=0", "--download-result=hide")
    return [
        "aria2c",
        *quiet,
        "-x1",
        "-j",
        str(turns.THREADS),
        "--file-allocation=none",
        "-d",
        str(out),
        "-i",
        str(source),
    ]


def _curl(source: Path, out: Path) -> list[str]:
    # curl takes its URLs from a configuration of its own form.
    config = source.with_suffix(".curl")
    config.write_text("".join(f"url = {line}\nremote-name\n" for line in source.read_text().splitlines()))
    parallel = ("--parallel", "--parallel-immediate", "--parallel-max", str(turns.THREADS))
    return ["curl", "-s", "-f", *parallel, "--create-dirs", "--output-dir", str(out), "-K", str(config)]


def _versions() -> dict[str, str]:
    """Return what each program says of its version."""
    found = {}
    for name, argv in {"aria2": ["aria2c", "--version"], "curl": ["curl", "--version"]}.items():
        if shutil.which(argv[0]):
            found[name] = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[
                2 if name == "aria2" else 1
            ]
    pip = IMG2DATASET.with_name("pip")
    shown = subprocess.run([str(pip), "show", "img2dataset"], capture_output=True, text=True, check=True).stdout
    found["img2dataset"] = next(line.split()[1] for line in shown.splitlines() if line.startswith("Version"))
    return found


if __name__ == "__main__":
    main()
