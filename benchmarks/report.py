"""Format the results as the page ``RESULTS.md`` and as a part of the README. ``make docs`` writes both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals, plots
from benchmarks.goals import Result, Spread
from benchmarks.processes import COMMAND, FLOWER, REDIS, UNSEEN, WORKERS
from benchmarks.workloads import BASE, FILES, IMAGEFLEET, OUTPUTS, RESIZE_MODES, SIZES, WORKLOADS, Workload
from config import limits

PAGE = Path(__file__).with_name("RESULTS.md")
#: A page written by hand about past optimisations and experiments, and about the remaining costs.
_PROFILE = Path(__file__).with_name("profile.md")
#: Placeholder for a missing measurement.
MISSING = "Not measured yet.\n"
_PACKAGES = {"python": "Python", "redis": "redis-py"}
_ROLES = (COMMAND, REDIS, WORKERS, FLOWER, UNSEEN)


def page(results: Mapping[str, Result]) -> str:
    """Return the text of ``RESULTS.md``; ``results`` maps names to results."""
    return "\n".join(block.strip() + "\n" for block in _blocks(results))


def readme(results: Mapping[str, Result]) -> str:
    """Return the README's part: the chart of speed, and the rates of imagefleet and img2dataset side by side."""
    measured = [(one.about, results[one.name]) for one in WORKLOADS if one.name in results and not one.short]
    if not measured:
        return MISSING
    ratios = [
        [about, *(_rate(result["ways"].get(way)) for way in (IMAGEFLEET, BASE)), _ratio(result, IMAGEFLEET)]
        for about, result in measured
    ]
    result = measured[0][1]
    blocks = [
        plots.html("speed", Path(plots.FOLDER.parent.name)),
        _table(["images/s", IMAGEFLEET, BASE, "ratio"], ratios),
        f"A rate is the median of {result['repeat']} runs, with the lowest and the highest rate in brackets. The tools "
        f"ran in turns, and all processes shared {result['machine']['cores']} cores of {result['machine']['cpu']}. "
        "[All results, and how to repeat them](benchmarks/RESULTS.md).",
    ]
    return "\n".join(block.strip() + "\n" for block in blocks)


def _blocks(results: Mapping[str, Result]) -> Iterator[str]:
    yield "# Results"
    yield (
        "`make bench` makes this page from `benchmarks/results`. imagefleet and its peers download the same "
        "images on the same machine, in turns (A B A B …). Every file of every turn is checked: a resized image by "
        "its size and a thumbnail, any other file byte for byte. Numbers are medians, with the lowest and the highest "
        "value of all turns in brackets. imagefleet runs with its defaults: the address guard, verification, "
        "manifests, the append-only file and the progress display are on. Each run starts and stops its own fleet. "
        "Rates are measured from the command's start to its exit."
    )
    yield "## Goals"
    yield _table(
        ["workload", "goal", "measured", ""],
        [[one.about, one.goal, one.text, one.verdict] for one in goals.findings(results)],
    )
    yield f"Ratios are computed turn by turn. They are relative to {BASE}, unless the row names something else."
    for name in plots.names(results):
        yield plots.html(name, Path())
    for workload in WORKLOADS:
        if workload.name in results:
            yield from _workload(workload, results[workload.name])
    yield from _resize_modes(results)
    if "latency" in results:
        yield from _latency(results["latency"])
    if "submission" in results:
        yield from _submission(results["submission"])
    if "planning" in results:
        yield from _planning(results["planning"])
    if OUTPUTS.name in results:
        yield from _outputs(results[OUTPUTS.name])
    if "hosts" in results:
        yield from _hosts(results["hosts"])
    if "dns" in results:
        yield from _dns(results["dns"])
    yield from _counts(results)
    if SIZES.name in results:
        yield from _sizes(results[SIZES.name])
    if "profile" in results:
        yield from _shares(results["profile"])
    yield "## How it is measured"
    yield _METHOD
    yield "## Machine and versions"
    yield from _machines(results)
    yield "## To repeat it"
    yield _REPEAT


_METHOD = f"""
- All ways download from one nginx on the same machine and share the cores with it. For https, nginx has a certificate
  of the benchmark's own CA. All ways trust the usual certificates (certifi's) and this CA.
- aria2 and curl only save the files. imagefleet and {BASE} also record a row per image, and imagefleet syncs all of it
  to disk.
- The images are 200 drawings; a unique comment makes each file different. The images of 160 KB have grain, so that they
  are as hard to decode as photographs.
- {BASE} runs in a separate environment, with the fastest number of processes and threads in a sweep over a
  quarter of its list. The sweep of plain Celery covers the pool and the size of chords. Plain Celery is
  [tutorial.py](tutorial.py): one task per image, `requests` with one session per process, Celery's own transport and
  settings, and a Redis with the same `config/redis.conf` as imagefleet. One chord for all images can be many times
  slower, because `AsyncResult.get` of its body takes the message of one finished part at a time, and checks all parts
  after each.
- CPU is the system's count for the command and all its descendants. The split by role is sampled ten times a second.
  The column "not sampled" is the CPU time that these samples miss: of short-lived processes, and of the last moment of
  each process. Peak memory is the sum of unique set sizes, the memory that would be free if all processes ended. Unique
  set sizes are read whenever resident memory has grown.
- The disk is synced between turns, so that no turn waits for the writes of another. Files are emptied after their check
  and deleted at the very end, because an ext4 without a journal is slow to reuse inodes deleted in the last minutes.
  Packed output itself deletes the files of its images. So on an ext4 without a journal, packed output and all turns
  after it are slower. `ls /proc/fs/jbd2` lists the disks with a journal.
- Requests are counted in nginx's access log. Messages and deliveries are counted in the append-only file of the run's
  own Redis, which contains every change. Both counts come from the measured runs.
"""

_REPEAT = """
```sh
make bench                                            # everything, over an hour; then RESULTS.md, plots and README
python -m benchmarks --workload http-15k              # one workload; --images and --repeat make it shorter
make bench-check                                      # minutes: fails if a ratio fell by more than 10 %
```

`make bench` needs nginx, openssl, redis-server, aria2 and curl. It installs img2dataset into `.bench`; set
`IMG2DATASET` to use another one. Images are saved below `TMPDIR`: set it to the disk to measure, with about 8 GiB free.
"""


def _workload(workload: Workload, result: Result) -> Iterator[str]:
    yield f"## {result['about']}"
    rows = []
    shown = [role for role in _ROLES if any(role in row["cpu_ms_per_image"] for row in result["ways"].values())]
    for name, row in result["ways"].items():
        cpu = row["cpu_ms_per_image"]
        rows.append(
            [
                _label(name, result),
                f"{row['images']:,}",
                _rate(row),
                f"{row['images_per_second']['median']:,.0f}",
                _ratio(result, name),
                _ms(goals.cpu(result, name)["median"]),
                *(_ms(cpu[role]) if role in cpu else "-" for role in shown),
                f"{row['peak_mib']['median']:,.0f} MiB",
            ]
        )
    names = {COMMAND: "producer, or command", REDIS: "Redis", UNSEEN: "not sampled"}
    titles = [names.get(role, role) for role in shown]
    head = ["", "images", "images/s", "by its own clock", f"of {BASE}", "CPU per image", *titles, "peak memory"]
    yield _table(head, rows)
    yield (
        f"{result['repeat']} turns; images of {result['bytes_per_image']:,} bytes. imagefleet and plain Celery "
        "start their own clock with the first task, and threads with the first image. The other ways have no clock of "
        "their own."
    )
    if workload.lists:
        yield (
            "The two ways download lists of different lengths, so that each way takes a minute or more and their "
            "startup has the same weight."
        )
    for name, sweep in result["sweeps"].items():
        sizes = sorted(sweep.items(), key=lambda item: -item[1])
        yield f"{name}, images/s in the sweep: " + "; ".join(f"{size} {rate:,.0f}" for size, rate in sizes) + "."


def _resize_modes(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the table of the other resize modes."""
    measured = [results[one.name] for one in RESIZE_MODES if one.name in results]
    if not measured:
        return
    yield "## The other resize modes"
    rows = []
    for result in measured:
        ways = [result["ways"][way] for way in (IMAGEFLEET, BASE)]
        cpu = [_ms(goals.cpu(result, way)["median"]) for way in (IMAGEFLEET, BASE)]
        rows.append([result["about"], *map(_rate, ways), _ratio(result, IMAGEFLEET), *cpu])
    columns = [f"{what}{way}" for what in ("", "CPU per image, ") for way in (IMAGEFLEET, BASE)]
    yield _table(["images/s", *columns[:2], "ratio", *columns[2:]], rows)
    yield (
        f"{measured[0]['images']:,} images, {measured[0]['repeat']} turns. {BASE} has the size that is fastest with "
        "`keep_ratio`. In the mode `no`, both programs decode each image and encode it again in its own size. Other "
        "programs used the machine during these turns, so compare the CPU times too. `python -m benchmarks --workload "
        "resize-no` measures one row."
    )


def _latency(result: Result) -> Iterator[str]:
    yield "## Latency"
    rate, part = result["images_per_second"], result["of_ideal"]
    yield (
        f"A server that waits {result['latency_ms']:.0f} ms before each response, {result['slots']} slots, "
        f"{result['images']:,} images, {result['repeat']} runs: {rate['median']:,.0f} images/s "
        f"({rate['least']:,.0f} to {rate['most']:,.0f}). This is {part['median']:.1%} of the ideal rate, "
        f"{result['ideal_per_second']:,.0f} images/s. Time is measured by the run's own clock."
    )


def _submission(result: Result) -> Iterator[str]:
    yield "## Submission"
    rate, cpu = result["tasks_per_second"], result["cpu_ms_per_task"]
    yield (
        "The producer, on one core, reads the plan and sends its tasks to a Redis with an append-only file. There is "
        f"no worker. The producer sends {rate['median']:,.0f} tasks/s ({rate['least']:,.0f} to {rate['most']:,.0f}; "
        f"{result['images']:,} tasks, {result['repeat']} runs) and uses {cpu['median']:.3f} ms of CPU per task."
    )


def _planning(result: Result) -> Iterator[str]:
    yield "## Planning"
    yield (
        f"The planner reads a list of {result['rows']:,} rows with URLs and captions, and writes the plan (`python -m "
        f"benchmarks.planning`). {BASE}'s reader cuts the same list into files of 1,000 rows. It reads the whole list "
        "into memory. The rate is per second of CPU, because other programs used the machine too."
    )
    rows = []
    for name, ways in result["formats"].items():
        cells = [f"`{name}`"]
        for way in (IMAGEFLEET, BASE):
            measured = ways[way]
            cells += [f"{measured['rows'] / measured['cpu_seconds']:,.0f}", f"{measured['peak_mib']:,} MiB"]
        rows.append(cells)
    yield _table(["format", f"{IMAGEFLEET}, rows/s", "peak memory", f"{BASE}, rows/s", "peak memory"], rows)


def _hosts(result: Result) -> Iterator[str]:
    """Yield the table of lists with several hosts."""
    yield "## Lists of several hosts"
    rows = []
    for case in result["cases"].values():
        ways = [case["ways"][way] for way in (IMAGEFLEET, BASE)]
        times = [f"{way[part]['median']:,.1f} s" for part in ("shown_seconds", "seconds") for way in ways]
        rows.append([case["about"], *times, *(f"{way['saved']['median']:,.0f}" for way in ways)])
    turns = [way["turns"] for case in result["cases"].values() for way in case["ways"].values()]
    columns = [f"{what}, {way}" for what in ("fast hosts", "whole run", "saved") for way in (IMAGEFLEET, BASE)]
    yield _table(["list", *columns], rows)
    yield (
        "Fast hosts: seconds from the first request to the last image of a host that is neither slow nor dead. Whole "
        f"run: seconds from start to exit, with the startup. Both programs download {result['slots']} images at a "
        f"time. imagefleet has its default limits, so at most 16 of them are of one host. {BASE} has no limit. So it "
        "sends more requests to a slow host, and its run may end earlier. The numbers are medians of "
        f"{min(turns)} turns or more. `python -m benchmarks.hosts` measures this table."
    )


def _dns(result: Result) -> Iterator[str]:
    """Yield the table of host names with a slow name server."""
    yield "## A slow name server"
    rates = result["images_per_second"]
    yield _table(["", "images/s"], [[way, f"{rate:,.0f}"] for way, rate in rates.items()])
    yield (
        f"{result['names']:,} images of 15 KB by http, each on a host of its own, once. The name server takes "
        f"{result['answer_ms']:,.0f} ms for each answer. `python -m benchmarks.dns` measures this table."
    )


def _outputs(result: Result) -> Iterator[str]:
    """Yield the table of output formats."""
    yield "## Output formats"
    rows = []
    for name, row in result["ways"].items():
        extra = None if name == FILES else goals.extra_time(result, name, FILES)
        cells = [f"`{name}`", _rate(row), "-" if extra is None else _percent(extra)]
        rows.append([*cells, _ms(goals.cpu(result, name)["median"]), f"{row['peak_mib']['median']:,.0f} MiB"])
    yield _table(["`--output-format`", "images/s", "extra time", "CPU per image", "peak memory"], rows)
    yield (
        f"{result['images']:,} images of 15 KB by http, {result['repeat']} turns. A packed image is written twice: as "
        "a file of its own, then into the packed file. Only the packed file is synced to disk."
    )


def _counts(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the table of messages, deliveries and requests.

    Messages and deliveries can only be counted in a run with its own Redis.
    """
    rows = []
    for workload in WORKLOADS:
        for name, row in results.get(workload.name, {"ways": {}})["ways"].items():
            turns = row["turns"]
            counts = [[turn[kind] for turn in turns] for kind in ("messages", "deliveries", "requests")]
            if name == IMAGEFLEET:
                rows.append([workload.about, f"{sum(turn['images'] for turn in turns):,}", *map(_format_count, counts)])
    if rows:
        yield "## One message and one execution for each image"
        yield _table(["imagefleet", "images", "messages sent", "messages delivered", "requests"], rows)
        yield "The numbers are totals of all turns of the measured runs. In brackets is the highest count of one image."


def _sizes(result: Result) -> Iterator[str]:
    """Yield the table of fleet sizes."""
    yield "## The size of the fleet"
    yield _table(
        ["", "images/s", "by its own clock", "CPU per image"],
        [
            [
                name,
                _rate(row),
                f"{row['images_per_second']['median']:,.0f}",
                _ms(goals.cpu(result, name)["median"]),
            ]
            for name, row in result["ways"].items()
        ],
    )
    yield (
        f'{result["images"]:,} images of 15 KB by http, {result["repeat"]} turns. The fleet "as it is" has '
        f"a worker for each of {result['machine']['cores']} cores, {limits.CONCURRENCY} slots in each worker, and "
        f"{limits.PREFETCH} tasks reserved for each slot. A finished task counts as reserved until it is acknowledged. "
        "So a worker with few reserved tasks runs out of work while it waits for acknowledgements. More "
        "slots gain nothing with a server that responds at once. With a server that takes a tenth of a second, each "
        "slot is one more concurrent download. `python -m benchmarks --workload sizes` measures this table."
    )


def _shares(result: Result) -> Iterator[str]:
    """Yield the table of a worker's activities, with the text about it."""
    yield "## Where a worker's time goes"
    running, holding = (result["shares"][kind] for kind in ("running", "gil"))
    yield _table(
        ["", "running", "holding Python's lock"],
        [[name, f"{share:.0%}", f"{holding.get(name, 0.0):.0%}"] for name, share in running.items()],
    )
    yield (
        f"py-spy sampled one worker of a fleet that downloads images of 15 KB by http, {result['rate']} times a second "
        f"for {result['seconds']} s in each of two runs. In the first run it sampled all running threads, on a core or "
        "in the kernel. In the second run it sampled only the thread with Python's lock (the GIL). `python -m "
        "benchmarks.profiling` measures this table."
    )
    yield _PROFILE.read_text(encoding="utf-8")


def _format_count(counts: Sequence[Mapping[str, int] | None]) -> str:
    found = [count for count in counts if count is not None]
    if len(found) < len(counts):
        return "not counted"
    return f"{sum(count['number'] for count in found):,} ({max(count['most'] for count in found)})"


def _machines(results: Mapping[str, Result]) -> Iterator[str]:
    """Yield a paragraph for each machine and its versions, with the measurements made there."""
    same: dict[str, list[str]] = {}
    for name, result in results.items():
        machine = dict(result["machine"])
        where = f"{machine.pop('cpu')}, {machine.pop('cores')} cores, {machine.pop('memory_gib')} GiB, "
        where += machine.pop("system")
        versions = {
            **{_PACKAGES.get(name, name): version for name, version in machine.items()},
            **result.get("versions", {}),
        }
        text = f"{where}; {', '.join(f'{program} {version}' for program, version in versions.items())}"
        day = result.get("measured_on")
        same.setdefault(text + (f"; measured on {day}." if day else "."), []).append(name)
    for text, names in same.items():
        yield f"- {', '.join(f'`{name}`' for name in names)}: {text}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _label(name: str, result: Result) -> str:
    version = result["versions"].get(name)
    sweep = result["sweeps"].get(name)
    best = f" ({max(sweep, key=lambda size: sweep[size])})" if sweep else ""
    return f"{name} {version}{best}" if version else f"{name}{best}"


def _rate(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else _spread(row["of_command"])


def _ratio(result: Result, way: str) -> str:
    found = goals.ratio(result, way, BASE)
    return "-" if found is None else f"{found['median']:.2f} x ({found['least']:.2f} to {found['most']:.2f})"


def _spread(found: Spread) -> str:
    return f"{found['median']:,.0f} ({found['least']:,.0f} to {found['most']:,.0f})"


def _percent(found: Spread) -> str:
    return f"{found['median']:.0f} % ({found['least']:.0f} to {found['most']:.0f})"


def _ms(value: float) -> str:
    return f"{value:.2f} ms"
