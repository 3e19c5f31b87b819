"""Measure how fast one core plans a list, and how much memory the planning takes: ``python -m benchmarks.planning``.

The lists have the same rows in different formats. Each row has a URL and a caption. The planner reads the list and
writes the plan with shards of 1,000 rows, with Python set up as in a command. Each format is measured in a process of
its own. If img2dataset is installed, its reader cuts the same lists into shards of 1,000 rows too. ``make bench``
installs img2dataset. To use another installation, set IMG2DATASET.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import records, turns
from benchmarks.programs import IMG2DATASET

FORMATS = ("txt", "csv", "csv.gz", "jsonl", "json", "parquet")
#: The number of rows that are written in one step.
_BLOCK = 50_000
#: Prints the rows per second of CPU time, the rows per second of elapsed time, and the peak of memory in MiB.
#: The script runs in img2dataset's environment too.
_REPORT = """
import json, time
def report(rows, cpu, wall):
    lines = open("/proc/self/status").read().split("\\n")
    peak = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"rows": rows, "cpu_seconds": cpu, "seconds": wall, "peak_mib": peak}))
"""
_PLAN = """
import sys
from pathlib import Path
from producer.planning.planner import Planner
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks import runtime_tuning
from tasks.storage.local_store import LocalStore
runtime_tuning.reduce_garbage_collection()
runtime_tuning.return_large_blocks()
source, out = sys.argv[1:]
options = SourceOptions(caption_col=None if ".txt" in source else "caption")
planner = Planner(url_list.read(source, options), LocalStore(Path(out)), 1000, lambda rows, shards: None)
cpu, wall = time.process_time(), time.monotonic()
planner.start()
while not planner.closed:
    planner.wait(planner.shards, 1.0)
if planner.error:
    raise planner.error
report(planner.rows, time.process_time() - cpu, time.monotonic() - wall)
"""
_PEER = """
import sys
from img2dataset.reader import Reader
source, out = sys.argv[1:]
kind = source.partition(".")[2]
caption = None if "txt" in kind else "caption"
cpu, wall = time.process_time(), time.monotonic()
reader = Reader(source, kind, "url", caption, None, None, [], 1000, set(), out)
shards = sum(1 for _ in reader)
report(shards * 1000, time.process_time() - cpu, time.monotonic() - wall)
"""


def main() -> None:
    """Measure, print a table and save the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of each list")
    parser.add_argument(
        "--format", action="append", choices=FORMATS, help="repeatable; other formats keep their results"
    )
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="folder for the JSON")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.format or FORMATS:
        with turns.scratch() as folder:
            source = folder / f"list.{name}"
            write(source, arguments.rows)
            found[name] = {"imagefleet": _measure(Path(sys.executable), _PLAN, source, folder / "plan")}
            if IMG2DATASET.exists():
                peer = IMG2DATASET.with_name("python")
                found[name]["img2dataset"] = _measure(peer, _PEER, source, folder / "shards")
        for way, result in found[name].items():
            print(f"{name:8} {way:12} {describe(result)}", flush=True)
    known = records.load("planning", arguments.results)
    if known is not None and known["rows"] == arguments.rows:
        found = {**known["formats"], **found}
    ordered = {name: found[name] for name in FORMATS if name in found}
    result = {"about": "planning, one core", "rows": arguments.rows, "formats": ordered}
    print(f"written to {records.save('planning', result, arguments.results)}")


def describe(result: dict[str, Any]) -> str:
    """Return a result as text."""
    if "error" in result:
        return str(result["error"])
    rate = result["rows"] / result["cpu_seconds"]
    return f"{rate:9,.0f} rows/s of CPU, {result['rows'] / result['seconds']:9,.0f} rows/s, {result['peak_mib']:,} MiB"


def write(path: Path, count: int) -> None:
    """Write a list of this many rows in constant memory. The file's name says the format."""
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            for block in _blocks(count):
                urls, captions = zip(*block, strict=True)
                writer.write_table(pa.table([pa.array(urls), pa.array(captions)], schema=schema))
        return
    opened: Callable[..., Any] = gzip.open if kind.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if kind.startswith("csv"):
            table = csv.writer(file)
            table.writerow(("url", "caption"))
            for block in _blocks(count):
                table.writerows(block)
        elif kind == "json":
            file.write("[")
            separator = "\n"
            for block in _blocks(count):
                for url, caption in block:
                    file.write(separator + json.dumps({"url": url, "caption": caption}))
                    separator = ",\n"
            file.write("]\n")
        else:
            for block in _blocks(count):
                for url, caption in block:
                    file.write((url if kind == "txt" else json.dumps({"url": url, "caption": caption})) + "\n")


def _blocks(count: int) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, count, _BLOCK):
        yield [
            (
                f"https://images{row % 997}.example/{row * 2654435761 % 2**32:08x}/{row}.jpg",
                f"A picture of number {row}, with a caption of some words",
            )
            for row in range(start, min(start + _BLOCK, count))
        ]


def _measure(python: Path, script: str, source: Path, out: Path) -> dict[str, Any]:
    """Run a script on one core; return what it reports, or its error."""
    out.mkdir()
    core = max(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{core}}})\n{_REPORT}\n{script}"
    started = time.monotonic()
    command = [str(python), "-c", pinned, str(source), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if ended.returncode != 0:
        reason = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
        return {"error": f"failed after {time.monotonic() - started:.0f} s: {reason[0]}"}
    measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
