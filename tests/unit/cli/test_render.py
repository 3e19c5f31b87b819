"""The console output after a run, a comparison or an error."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from config.settings import settings
from producer.cli import render
from producer.comparison.comparison import Comparison
from producer.comparison.way import Way
from producer.dispatch.host_report import HostCondition, HostReport
from producer.dispatch.progress import Progress
from producer.output.summary import Summary
from producer.runs.result import PreviousResult, RunResult
from tasks.errors import CommandError

_SUMMARY = Summary(
    statuses={"success": 2997, "failed_to_download": 2, "failed_to_resize": 1},
    reasons={"http_4xx": 2, "not_image": 1},
    bytes=52_428_800,
    shards=3,
)
_REPORT = RunResult("id", "list.txt", "/data/out", _SUMMARY, 12.5, 2, 32, 1.25, 3000)
_GOLDEN_RUN = """\
Total Execution Time  12.50 seconds
Images per second     240.0
Images                3,000 in 3 shards
  success             2,997
  failed_to_download  2
  failed_to_resize    1
Reasons of failures
  http_4xx            2
  not_image           1
Saved                 50.0 MiB
Fleet                 2 workers, 32 slots; ready after 1.25 s
Images are in         /data/out/00000/ …
Manifests are in      /data/out/00000.parquet …
Failures are in       /data/out/failures.jsonl (for a summary: producer failures /data/out)
"""
_GOLDEN_COMPARISON = """\
 way          at once   Total Execution Time   images/s   speed-up   saved   failed
 ──────────────────────────────────────────────────────────────────────────────────
 one by one         1          20.00 seconds        0.5      1.0 x      10        0
 threads            4           5.00 seconds        1.8      4.0 x       9        0
 fleet             32           2.00 seconds        5.0     10.0 x       9        1

The fleet was ready after 1.25 s; its time does not include this wait.
fleet: 1 x timeout
"""
_GOLDEN_FAULT = """\
Error: It [bold]broke[/bold]
Why:   it was old
To do: Buy another.
"""


def text(shown: RenderableType) -> str:
    """Return the text of a console without a terminal, without spaces at line ends."""
    sink = io.StringIO()
    Console(file=sink, width=160).print(shown)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines()).strip("\n") + "\n"


def test_report_of_a_run() -> None:
    """A run's report begins with its wall-clock time, counts the failures by reason, and names the files."""
    assert text(render.render_run(_REPORT)) == _GOLDEN_RUN


def test_report_suggests_checking_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """If connections failed and a proxy is set, the report suggests checking the proxy first."""
    summary = replace(_SUMMARY, reasons={"connect": 3})
    shown = [text(render.render_run(replace(_REPORT, summary=summary)))]
    monkeypatch.setenv("IMAGEFLEET_PROXY", "http://user:word@127.0.0.1:3")
    settings.cache_clear()
    shown.append(text(render.render_run(replace(_REPORT, summary=summary))))
    settings.cache_clear()
    assert ["IMAGEFLEET_PROXY" in each for each in shown] == [False, True]
    assert "word" not in shown[1]


def test_report_without_failures() -> None:
    """The report of a run without failures does not mention failures. For one shard, the report uses the singular."""
    shown = text(render.render_run(replace(_REPORT, summary=Summary({"success": 1}, {}, 5, 1))))
    assert "1 in 1 shard\n" in shown
    assert "Failures" not in shown
    assert "failed" not in shown


def test_report_of_a_resumed_run() -> None:
    """Time and speed are those of this command. The report says how much of the run the command did."""
    shown = text(render.render_run(replace(_REPORT, images=320)))
    assert shown.splitlines()[:4] == [
        "Total Execution Time  12.50 seconds",
        "Images per second     25.6",
        "This command          320 of 3,000 images, in this time",
        "Images                3,000 in 3 shards",
    ]


def test_report_of_a_run_already_complete() -> None:
    """A command with nothing to do reports the figures of the command that completed the run."""
    done = PreviousResult(1.0e9, 320, 12.5, 25.6, 2, 32)
    finished = RunResult("id", "list.txt", "/data/out", _SUMMARY, 0.0, 0, 0, 0.0, 0, completion=done)
    shown = text(render.render_run(finished))
    assert shown.startswith("This command          nothing to do; ")
    assert "by a command with 2 workers, 32 slots: 320 of 3,000 images in 12.50 seconds (25.6 per second)" in shown
    assert "Total Execution Time" not in shown
    assert "ready after" not in shown
    assert (finished.totals()["total"], finished.totals()["fetched"], finished.totals()["wall_seconds"]) == (3000, 0, 0)


def test_report_of_a_refresh() -> None:
    """A refresh reports the number of reused images, even if the number is 0."""
    for unchanged in (0, 2900):
        summary = replace(_SUMMARY, unchanged=unchanged)
        shown = text(render.render_run(replace(_REPORT, summary=summary, previous_run="/data/old")))
        line = f"  unchanged           {unchanged:,} of them, reused from /data/old\n"
        assert shown == _GOLDEN_RUN.replace("Reasons", f"{line}Reasons")


def test_report_of_a_comparison() -> None:
    """Each way of a comparison is listed with its time, and with its speed relative to the first way."""
    ways = (
        Way("one by one", 1, 20.0, Summary({"success": 10}, {}, 5, 1), Path("/a")),
        Way("threads", 4, 5.0, Summary({"success": 9}, {}, 5, 1), Path("/b")),
        Way("fleet", 32, 2.0, Summary({"success": 9, "failed_to_download": 1}, {"timeout": 1}, 5, 1), Path("/c")),
    )
    assert text(render.render_comparison(Comparison("list.txt", ways, 1.25))) == _GOLDEN_COMPARISON


def test_error_has_three_parts() -> None:
    """An error says what happened, why, and what to do. No part of the error is interpreted as markup."""
    assert (
        text(render.render_error(CommandError("It [bold]broke[/bold]", "it was old", "Buy another."))) == _GOLDEN_FAULT
    )


def test_json_totals() -> None:
    """The JSON totals of a run hold the figures that a script needs, rounded."""
    assert _REPORT.totals() == {
        "total": 3000,
        "success": 2997,
        "unchanged": 0,
        "failed": 3,
        "reasons": {"http_4xx": 2, "not_image": 1},
        "bytes": 52_428_800,
        "wall_seconds": 12.5,
        "images_per_second": 240.0,
        "shards": 3,
        "workers": 2,
        "concurrency": 32,
        "startup_seconds": 1.25,
        "fetched": 3000,
        "fetched_bytes": 0,
        "repaired": 0,
        "unfit_workers": {},
        "hosts": [],
    }


def test_run_that_took_no_time() -> None:
    """A run without a duration has no speed, and causes no division by zero."""
    assert replace(_REPORT, wall_seconds=0.0).images_per_second == 0.0


def test_errors_are_escaped() -> None:
    """Text quoted from a file or a server can't send terminal codes, reveal secrets or forge lines."""
    fault = CommandError(
        "\x1b[2J\x1b]0;title\x07 is no list",
        "http://user:word@a.example/?sig=x\nError: \x9b31m\u202egpj",
        "Look at [bold]it[/bold].",
    )
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    with console.capture() as shown:
        console.print(render.render_error(fault))
    assert [line.rstrip() for line in shown.get().splitlines()] == [
        "Error: \ufffd[2J\ufffd]0;title\ufffd is no list",
        "Why:   http://***@a.example/?sig=***",
        "       Error: \ufffd31m\ufffdgpj",
        "To do: Look at [bold]it[/bold].",
    ]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ({}, "10 failed"),
        ({"dns": 10}, "10 failed (dns)"),
        ({"dns": 6, "timeout": 4}, "10 failed (6 of them dns)"),
    ],
)
def test_progress_names_the_main_reason(reasons: dict[str, int], expected: str) -> None:
    """The main reason of failures is shown during the run, even if only some images have failed."""
    progress = Progress(0, 10, 0, 200, True, reasons=reasons)
    assert render.describe_failures(progress) == expected


def test_report_names_troubled_hosts() -> None:
    """Hosts that rested or were slow are listed, and images that were not tried can be retried."""
    host = HostReport(
        "a.example", HostCondition.RESTS, "it did not answer; 5 s left", 0, 0, None, 0, 9, 0, 0, 5, None, None, 5.0
    )
    summary = replace(_SUMMARY, reasons={"host_resting": 3})
    shown = text(render.render_run(replace(_REPORT, summary=summary, hosts=[host])))
    assert "host_resting        3  (hosts that were given up: retry later with `producer retry /data/out`)" in shown
    assert "Troubled hosts\n  a.example           rests: it did not answer; 5 s left; 5 without an answer\n" in shown
