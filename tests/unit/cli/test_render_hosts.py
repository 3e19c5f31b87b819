"""The table of hosts, the line about waiting images, and the hosts in a run's report."""

from __future__ import annotations

from dataclasses import replace

from producer.cli.render_hosts import describe_host, describe_waiting, render_hosts
from producer.dispatch.host_report import HostCondition, HostReport
from producer.dispatch.progress import Progress
from tests.unit.cli.test_render import text

_DEAD = HostReport(
    "dead.example", HostCondition.GIVEN_UP, "it did not answer", 0, 0, None, 0, 5, 0, 0, 15, 0.25, 0.2, 60.0
)
_FULL = HostReport(
    "full.example:8080", HostCondition.FULL, "its limit is reached", 2, 2, 1.5, 1200, 90, 1, 2, 0, None, None, 0.0
)
_GOLDEN = """\
 host                         open  per s  waiting  ok  refused  silent  latency
 ───────────────────────────────────────────────────────────────────────────────
 dead.example       given up   0/0               0   5        0      15   0.25 s
 full.example:8080  full       2/2    1.5    1,200  90        2       1

dead.example: it did not answer
full.example:8080: its limit is reached

2 hosts: 1 given up, 1 full.
"""


def test_table_of_hosts() -> None:
    """The table has one line for each host. The last line counts the hosts by condition."""
    assert text(render_hosts([_DEAD, _FULL], 20)) == _GOLDEN


def test_long_table_is_cut() -> None:
    """Only some hosts are shown. The last line says how many are left out."""
    shown = text(render_hosts([_DEAD, *[_FULL] * 30], 20))
    assert shown.count("2/2") == 19
    assert "full.example:8080 and 14 more: its limit is reached" in shown
    assert shown.endswith("31 hosts: 1 given up, 30 full. Not shown: 11 hosts; see --limit and --json.\n")
    assert text(render_hosts([_DEAD], 0)) == "1 host: 1 given up. Not shown: 1 host; see --limit and --json.\n"


def test_fleet_without_hosts() -> None:
    """Without hosts, there is no table."""
    assert text(render_hosts([], 20)) == "The fleet has used no host in the last hour.\n"


def test_host_in_a_report() -> None:
    """A host in a run's report has its condition, its reason and its failed requests."""
    assert describe_host(_DEAD) == "given up: it did not answer; 15 without an answer; latency 0.25 s"
    assert describe_host(_FULL) == "full: its limit is reached; 2 of 93 requests refused; 1 without an answer"


def test_line_about_waiting_images_fits_80_columns() -> None:
    """The line names the host that most images wait for. A long name is shortened."""
    progress = Progress(1, 0, 10, 100, True, waiting=1, busiest_host="a.example", busy_hosts=1)
    assert describe_waiting(progress) == "1 image waits for a.example"
    many = replace(progress, waiting=12_345_678, busiest_host="a" * 60 + ".example.com", busy_hosts=3)
    assert describe_waiting(many).startswith("12,345,678 images wait for busy hosts, most for aaa")
    assert describe_waiting(many).endswith("aaa.example.com")
    assert len(describe_waiting(many)) < 80
    assert describe_waiting(replace(progress, waiting=0)) == ""
