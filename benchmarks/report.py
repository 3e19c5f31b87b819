"""What was measured, as text: the page ``RESULTS.md``, and the README's part. ``make docs`` writes both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals, plots
from benchmarks.goals import Result, Spread
from benchmarks.processes import COMMAND, FLOWER, REDIS, UNSEEN, WORKERS
from benchmarks.workloads import BASE, IMAGEFLEET, SIZES, WORKLOADS, Workload
from config import bounds

PAGE = Path(__file__).with_name("RESULTS.md")
#: Written by hand: where the time goes, and what was tried.
_PROFILE = Path(__file__).with_name("profile.md")
#: What stands where a measurement is missing.
MISSING = "Not measured yet.\n"
_PACKAGES = {"python": "Python", "redis": "redis-py"}
_ROLES = (COMMAND, REDIS, WORKERS, FLOWER, UNSEEN)


def page(kept: Mapping[str, Result]) -> str:
    """Return the text of ``RESULTS.md``; takes the results by their names."""
    return "\n".join(block.strip() + "\n" for block in _blocks(kept))


def readme(kept: Mapping[str, Result]) -> str:
    """Return the README's part: plots, ratios, and the first workload's ways."""
    measured = [(workload, kept[workload.name]) for workload in WORKLOADS if workload.name in kept]
    if not measured:
        return MISSING
    ratios = [
        [workload.about, *(_rate(result["ways"].get(way)) for way in (IMAGEFLEET, BASE)), _ratio(result, IMAGEFLEET)]
        for workload, result in measured
        if not workload.short
    ]
    first, result = measured[0]
    blocks = [
        *(plots.picture(name, Path(plots.FOLDER.parent.name)) for name in plots.drawn(kept)),
        _table(["", IMAGEFLEET, BASE, "ratio"], ratios),
        f"All ways, {first.about}:",
        _table(
            ["", "images/s", f"of {BASE}", "CPU an image", "peak memory"],
            [
                [
                    _named(name, result),
                    _rate(row),
                    _ratio(result, name),
                    _ms(goals.cpu(result, name)["median"]),
                    f"{row['peak_mib']['median']:,.0f} MiB",
                ]
                for name, row in result["ways"].items()
            ],
        ),
        f"Median (least to most) of {result['repeat']} runs in turns, each from its start to its exit, everything on "
        f"{result['machine']['cores']} cores of {result['machine']['cpu']}, against nginx on the same machine. aria2 "
        "and curl save what comes, and nothing else; imagefleet and img2dataset also write what they know of each "
        "image, and imagefleet sees to it that it is on the disk. [All numbers, goals and how to repeat "
        "them](benchmarks/RESULTS.md).",
    ]
    return "\n".join(block.strip() + "\n" for block in blocks)


def _blocks(kept: Mapping[str, Result]) -> Iterator[str]:
    yield "# Results"
    yield (
        "Made by `make bench`, from [benchmarks/results](results): imagefleet and its peers over the same pictures on "
        "the same machine, in turns (A B A B …). Every file of every turn is checked: byte for byte, or by its size "
        "and a thumbnail where it was made smaller. Numbers are medians, with the least and the most of all turns. "
        "imagefleet runs with a user's defaults: the guard, the verification, the manifests, the append-only file and "
        "the progress are on, and a fleet is started and ended for each run; its rates count from the command's start "
        "to its exit."
    )
    yield "## Goals"
    yield _table(
        ["workload", "goal", "measured", ""],
        [[one.about, one.goal, one.text, one.verdict] for one in goals.findings(kept)],
    )
    yield f"Ratios are to {BASE}, or to what the row names, turn by turn."
    for name in plots.drawn(kept):
        yield plots.picture(name, Path())
    for workload in WORKLOADS:
        if workload.name in kept:
            yield from _workload(workload, kept[workload.name])
    if "latency" in kept:
        yield from _latency(kept["latency"])
    if "submission" in kept:
        yield from _submission(kept["submission"])
    yield from _once(kept)
    if SIZES.name in kept:
        yield from _sizes(kept[SIZES.name])
    if "profile" in kept:
        yield from _shares(kept["profile"])
    yield "## How it is measured"
    yield _METHOD
    yield "## Machine and versions"
    yield from _machines(kept)
    yield "## To repeat it"
    yield _REPEAT


_METHOD = f"""
- All ways download from one nginx on the same machine, which shares the cores with them. It speaks TLS with a
  certificate of the benchmark's own authority; every way is given the usual certificates (certifi's) and that one.
- Pictures are drawn: 200 of them, each file made different by a comment of its own. Those of 160 KB have grain, so that
  they are as hard to decode as a photograph.
- {BASE} runs in an environment of its own, with the number of processes and threads that was fastest in a sweep over
  a quarter of its list, plain Celery with the pool and the size of chords. Plain Celery is [tutorial.py](tutorial.py):
  one task for each image, `requests` with a session for each process, Celery's own transport and settings, and a Redis
  with the same `config/redis.conf` as ours. One chord for all can be many times slower: `AsyncResult.get` of its body
  takes the message of one finished part at a time, and after each looks at all parts.
- CPU is what the system counted for the command and all its descendants. The split into roles is looked at ten times a
  second; what no look saw (the last moment of each process, and short ones) is the column "not seen". Peak memory is
  the sum of unique set sizes, what would be free if all processes ended, read whenever resident memory has grown.
- The disk is synced between turns, so that none waits for what another has left. Files are emptied after they are
  checked, and removed at the very end: ext4 is slow to give away inodes that were deleted in the last minutes.
- Requests are counted in nginx's access log; messages and their deliveries in the append-only file of the run's own
  Redis, which holds every change. Both belong to the runs that are measured.
"""

_REPEAT = """
```sh
make bench                                            # everything, over an hour; then RESULTS.md, plots and README
python -m benchmarks --workload http-15k              # one workload; --images and --repeat make it shorter
make bench-check                                      # minutes: fails where a ratio fell by more than 10 %
```

`make bench` needs nginx, openssl, redis-server, aria2 and curl, and installs img2dataset into `.bench`; `IMG2DATASET`
names another one. `TMPDIR` is where pictures are saved: the disk to measure, with about 8 GiB free.
"""


def _workload(workload: Workload, result: Result) -> Iterator[str]:
    yield f"## {result['about']}"
    rows = []
    shown = [role for role in _ROLES if any(role in row["cpu_ms_per_image"] for row in result["ways"].values())]
    for name, row in result["ways"].items():
        cpu = row["cpu_ms_per_image"]
        rows.append(
            [
                _named(name, result),
                f"{row['images']:,}",
                _rate(row),
                f"{row['images_per_second']['median']:,.0f}",
                _ratio(result, name),
                _ms(goals.cpu(result, name)["median"]),
                *(_ms(cpu[role]) if role in cpu else "-" for role in shown),
                f"{row['peak_mib']['median']:,.0f} MiB",
            ]
        )
    titles = [{COMMAND: "producer, or command", REDIS: "Redis", UNSEEN: "not seen"}.get(role, role) for role in shown]
    head = ["", "images", "images/s", "by its own clock", f"of {BASE}", "CPU an image", *titles, "peak memory"]
    yield _table(head, rows)
    yield (
        f"{result['repeat']} turns; pictures of {result['bytes_per_image']:,} bytes. By its own clock, a run of ours "
        "or of plain Celery begins with the first task, and threads with the first image; others have no clock."
    )
    if workload.lists:
        yield (
            "The lists have different lengths, so that each of the two takes a minute or more, and their starts weigh "
            "the same."
        )
    for name, sweep in result["sweeps"].items():
        sizes = sorted(sweep.items(), key=lambda item: -item[1])
        yield f"{name}, images/s in the sweep: " + "; ".join(f"{size} {rate:,.0f}" for size, rate in sizes) + "."


def _latency(result: Result) -> Iterator[str]:
    yield "## Latency"
    rate, part = result["images_per_second"], result["of_ideal"]
    yield (
        f"A server that waits {result['latency_ms']:.0f} ms before each answer, {result['slots']} slots, "
        f"{result['images']:,} images, {result['repeat']} runs: {rate['median']:,.0f} images/s "
        f"({rate['least']:,.0f} to {rate['most']:,.0f}) of the ideal {result['ideal_per_second']:,.0f}, "
        f"{part['median']:.1%}. By the run's own clock."
    )


def _submission(result: Result) -> Iterator[str]:
    yield "## Submission"
    rate, cpu = result["tasks_per_second"], result["cpu_ms_per_task"]
    yield (
        f"From the plan into a Redis with its append-only file, the producer on one core and nobody taking tasks: "
        f"{rate['median']:,.0f} tasks/s ({rate['least']:,.0f} to {rate['most']:,.0f}; {result['images']:,} tasks, "
        f"{result['repeat']} runs), {cpu['median']:.3f} ms of the producer's CPU a task."
    )


def _once(kept: Mapping[str, Result]) -> Iterator[str]:
    """Give the table of what each image caused: requests, and with a Redis of ours, messages and deliveries."""
    rows = []
    for workload in WORKLOADS:
        for name, row in kept.get(workload.name, {"ways": {}})["ways"].items():
            turns = row["turns"]
            counts = [[turn[kind] for turn in turns] for kind in ("messages", "deliveries", "requests")]
            if name == IMAGEFLEET:
                rows.append([workload.about, f"{sum(turn['images'] for turn in turns):,}", *map(_counted, counts)])
    if rows:
        yield "## One message and one execution for each image"
        yield _table(["imagefleet", "images", "messages sent", "messages delivered", "requests"], rows)
        yield "All turns together, in the runs that are measured; in brackets the most that one image had."


def _sizes(result: Result) -> Iterator[str]:
    """Give the table of fleets of other sizes than the usual one."""
    yield "## The size of the fleet"
    yield _table(
        ["", "images/s", "by its own clock", "CPU an image"],
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
        f"{result['images']:,} images of 15 KB by http, {result['repeat']} turns. As it is: a worker for each of "
        f"{result['machine']['cores']} cores, {bounds.CONCURRENCY} slots in each, {bounds.PREFETCH} tasks reserved for "
        "each slot. What is done counts as reserved until it is settled, so a worker with "
        "few reserved runs dry meanwhile; more slots than that gain nothing from a server that answers at once, and "
        "each is a download more at a time from one that takes a tenth of a second. Made by "
        "`python -m benchmarks --workload sizes`."
    )


def _shares(result: Result) -> Iterator[str]:
    """Give the table of where a worker's time goes, and what is to be said of it."""
    yield "## Where a worker's time goes"
    running, holding = (result["shares"][kind] for kind in ("running", "gil"))
    yield _table(
        ["", "running", "holding Python's lock"],
        [[name, f"{share:.0%}", f"{holding.get(name, 0.0):.0%}"] for name, share in running.items()],
    )
    yield (
        f"One of the workers of a fleet that downloads pictures of 15 KB by http, seen {result['rate']} times a second "
        f"for {result['seconds']} s by py-spy, twice: its threads that run, on a core or in the kernel, and the one "
        "that holds Python's lock (the GIL). Made by `python -m benchmarks.profiling`."
    )
    yield _PROFILE.read_text(encoding="utf-8")


def _counted(counts: Sequence[Mapping[str, int] | None]) -> str:
    found = [count for count in counts if count is not None]
    if len(found) < len(counts):
        return "not counted"
    return f"{sum(count['number'] for count in found):,} ({max(count['most'] for count in found)})"


def _machines(kept: Mapping[str, Result]) -> Iterator[str]:
    """Give what each measurement was made on and with; those that agree share a paragraph."""
    same: dict[str, list[str]] = {}
    for name, result in kept.items():
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


def _named(name: str, result: Result) -> str:
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


def _ms(value: float) -> str:
    return f"{value:.2f} ms"
