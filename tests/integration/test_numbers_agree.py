"""Everything that counts the images of a run gives the same numbers, also after kills, lost tasks and repairs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.broker import client as broker_client
from tasks.celery import IMAGE_QUEUE
from tests.flower import RunningFleet, running_fleet
from tests.integration import processes
from tests.metrics import free_ports, images, read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_WORKERS, _SLOTS = 2, 8
#: The images of the list, by the reason of their failure; "" for a saved image.
_EXPECTED = {"": 78, "http_4xx": 5, "not_image": 4, "connect": 2, "invalid_url": 1}


@dataclass(frozen=True)
class Fleet:
    """A fleet with Flower, the first port of its metrics, and the environment of commands that use it."""

    running: RunningFleet
    metrics_port: int

    @property
    def broker(self) -> str:
        """The URL of the fleet's Redis."""
        return self.running.broker


@dataclass(frozen=True)
class Counts:
    """The images of a run by the reason of their failure ("" for saved ones), and the size of the saved images."""

    images: dict[str, int]
    bytes: int

    @classmethod
    def from_totals(cls, totals: Mapping[str, Any]) -> Counts:
        """Return the counts in a JSON object of a command."""
        assert totals["failed"] == sum(totals["reasons"].values())
        return cls({"": totals["success"], **totals["reasons"]}, totals["bytes"])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Run a fleet whose workers serve metrics, with Flower."""
    port = free_ports(_WORKERS)
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_METRICS_PORT": str(port)}
    size = ("--workers", str(_WORKERS), "--concurrency", str(_SLOTS // _WORKERS))
    with running_fleet(tmp_path_factory.mktemp("fleet"), *size, env=env) as running:
        yield Fleet(running, port)


def arguments(fleet: Fleet, demo_url: str, name: str) -> list[str | Path]:
    """Write the list of a run, and return the arguments of its command.

    The first images keep all slots busy for some seconds.
    """
    urls = [f"{demo_url}/images/{number}.png?latency={3 if number < _SLOTS else 1}" for number in range(78)]
    urls += [f"{demo_url}/fault/not-found?{number}" for number in range(5)]
    urls += [f"{demo_url}/fault/html?{number}" for number in range(4)]
    urls += [f"{demo_url}/fault/drop?{number}" for number in range(2)] + ["not a url"]
    assert len(urls) == sum(_EXPECTED.values())
    source, out = fleet.running.root / f"{name}.txt", fleet.running.root / name
    source.write_text("\n".join(urls))
    # With this limit per host, no task is parked, so the tasks that no slot has are in the queue.
    options = ("--shard-size", "15", "--window", "6", "--retries", "0", "--per-host-concurrency", "64")
    return ["run", source, "--out", out, "--broker", fleet.broker, *options]


def from_files(out: Path) -> Iterator[tuple[str, Counts]]:
    """Yield the counts of each source that stays after a run: commands, manifests and other files."""
    rows = processes.rows(out)
    saved = [row for row in rows if row["status"] == "success"]
    size = sum(row["bytes"] for row in saved)
    yield "the manifests", Counts(dict(Counter(row["reason"] or "" for row in rows)), size)
    files = processes.image_files(out)
    failed = Counter(json.loads(line)["reason"] for line in (out / "failures.jsonl").read_text().splitlines())
    yield "the folder", Counts({"": len(files), **failed}, sum((out / name).stat().st_size for name in files))
    listed = processes.producer("failures", out, "--format", "jsonl").out.splitlines()
    yield "failures", Counts({"": len(saved), **Counter(json.loads(line)["reason"] for line in listed)}, size)
    yield "JSON", Counts.from_totals(processes.producer("resume", out, "--json").json())
    yield "status", Counts.from_totals(processes.producer("status", out, "--json").json())
    yield "the text", from_text(processes.producer("resume", out).out, size)
    assert processes.producer("report", out).code == 0
    yield "the report", from_report((out / "report.html").read_text(encoding="utf-8"), size)


def from_text(shown: str, size: int) -> Counts:
    """Return the counts in the result of a run as a person sees it. Its size is rounded, so the size is given."""
    result = shown.partition("Total Execution Time")[2] or shown.partition("This command")[2]
    found = {name: int(number.replace(",", "")) for name, number in re.findall(r"^  (\w+) +([\d,]+)", result, re.M)}
    assert found.pop("failed_to_download") + found.pop("failed_to_resize") == sum(found.values()) - found["success"]
    return Counts({"": found.pop("success"), **found}, size)


def from_report(page: str, size: int) -> Counts:
    """Return the counts in the table of outcomes of a report."""
    (section,) = re.findall(r'<section id="outcomes".*?</section>', page, re.DOTALL)
    rows = re.findall(r'<th scope="row">(\w+)</th><td class="number">([\d,]+)</td>', section)
    counts = {name: int(number.replace(",", "")) for name, number in rows}
    return Counts({"": counts.pop("saved"), **counts}, size)


def from_run_metrics(series: Mapping[str, float]) -> Counts:
    """Return the counts in the metrics that the producer serves."""
    counted = {
        name.partition('reason="')[2].partition('"')[0]: int(value)
        for name, value in series.items()
        if name.startswith("imagefleet_run_images{") and value
    }
    return Counts(counted, int(series["imagefleet_run_saved_bytes"]))


def check_flower(fleet: Fleet, run_id: str) -> None:
    """Wait until Flower has the end of each image, and make sure that it knows no other images of the run."""

    def states() -> dict[str, int]:
        tasks = fleet.running.flower.tasks()
        ours = (task for name, task in tasks.items() if name.startswith(run_id) and not name.endswith(".collect"))
        return dict(Counter(task["state"] for task in ours))

    failed = sum(_EXPECTED.values()) - _EXPECTED[""]
    processes.eventually(lambda: states() == {"SUCCESS": _EXPECTED[""], "FAILURE": failed}, "all events in Flower")


def check(out: Path, **others: Counts) -> None:
    """Make sure that all sources give the same counts, and that these are the expected ones."""
    found = {**dict(from_files(out)), **others}
    assert {name: counts.images for name, counts in found.items()} == dict.fromkeys(found, _EXPECTED)
    assert len({counts.bytes for counts in found.values()}) == 1, found


def test_numbers_of_a_run(fleet: Fleet, demo_url: str) -> None:
    """In a run without faults, each source counts each image once: also the workers, whose counters only rise."""
    facts = processes.producer(*arguments(fleet, demo_url, "calm"), "--json").json()
    counted: Counter[str] = Counter()
    size = 0.0
    for port in range(fleet.metrics_port, fleet.metrics_port + _WORKERS):
        counted.update({reason: int(number) for reason, number in images(port).items()})
        size += read_metrics(port)["imagefleet_saved_bytes_total"]
    check(Path(facts["out"]), run=Counts.from_totals(facts), workers=Counts(dict(counted), int(size)))
    check_flower(fleet, facts["run_id"])


def test_numbers_of_a_disturbed_run(fleet: Fleet, demo_url: str, tmp_path: Path) -> None:
    """A worker and the producer are killed, and tasks are lost. Afterwards, each source counts each image once.

    The counters of the workers are left out. Those of the killed worker are lost, and an image that ran twice counts
    twice.
    """
    argv = arguments(fleet, demo_url, "disturbed")
    out = fleet.running.root / "disturbed"
    before = processes.request_count(demo_url, "/images")
    with processes.started("run", processes.command(argv), tmp_path) as run:
        slots_are_busy = "requests from all slots"
        processes.eventually(lambda: processes.request_count(demo_url, "/images") - before >= _SLOTS, slots_are_busy)
        worker = next(process for process in fleet.running.command.descendants() if "worker" in process.cmdline())
        worker.kill()
        run.process.kill()
        run.process.wait()
    port = free_ports(1)
    resume = processes.command(["resume", out, "--broker", fleet.broker, "--metrics-port", str(port)])
    with processes.terminal(resume, {}) as screen, broker_client.client(fleet.broker) as server:
        in_flight = "imagefleet_run_shards_in_flight"
        processes.eventually(lambda: read_metrics(port).get(in_flight), "the adopted shards", 60)
        processes.eventually(lambda: server.delete(IMAGE_QUEUE), "queued tasks to lose")
        served = processes.eventually(lambda: complete(read_metrics(port)), "the metrics of the complete run", 120)
        assert screen.process.wait(60) == 0
    metrics = from_run_metrics(served)
    check(out, metrics=metrics, terminal=from_text(screen.text, metrics.bytes))
    record = json.loads((out / "run.json").read_text())
    repaired = record["totals"]["repaired"]
    assert repaired > 0
    assert re.search(rf"Repaired +{repaired} lost tasks?", screen.text)
    assert processes.producer("status", out, "--json").json()["repaired"] == repaired
    check_flower(fleet, record["id"])


def complete(series: Mapping[str, float]) -> Mapping[str, float]:
    """Return the series of a complete run; nothing for a run in progress."""
    return series if series.get("imagefleet_run_complete") else {}
