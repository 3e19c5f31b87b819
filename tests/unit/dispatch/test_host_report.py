"""The fleet's state of a host becomes a condition and a reason in words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from producer.dispatch.host_report import HostCondition, HostReport
from tasks.throttle.hosts import HostState
from tasks.throttle.registry import Cause, Why
from tasks.throttle_options import HostLimit

_STATE = HostState(
    "a.example", Why.GRANTED, None, HostLimit(16, 5.0), None, None, 3, 0.0, 0, 10, 1, 2, 3, 0.25, 0.125, parked=0
)
_REFUSED: dict[str, Any] = {"cause": Cause.REFUSED, "rests": 2}
_SILENT: dict[str, Any] = {"cause": Cause.UNREACHABLE, "rests": 3}


@pytest.mark.parametrize(
    ("changes", "condition", "reason"),
    [
        ({}, "works", ""),
        ({"permits": 0}, "idle", ""),
        ({"troubled": 40.0}, "works", "it works again; it rested or was slow 40 s ago"),
        ({"parked": 4}, "full", "its limit or its rate is reached"),
        ({"parked": 4, "limit": HostLimit(3)}, "full", "its limit is reached"),
        ({"adaptive_limit": 4}, "reduced", "it was slow, refused requests or did not answer"),
        (
            {"why": Why.RESTING, "resting": 12.3, **_REFUSED},
            "rests",
            "it refused requests (429 or 503); 12 s left",
        ),
        (
            {"why": Why.HALF_OPEN, **_SILENT},
            "probed",
            "it did not answer; one request probes it after its rest",
        ),
        (
            {"why": Why.GIVEN_UP, "resting": 600.0, **_SILENT},
            "given up",
            "it did not answer, 3 rests in a row; next probe in 10 min",
        ),
        (
            {"why": Why.GIVEN_UP, **_REFUSED, "operator_limit": HostLimit(2)},
            "given up",
            "it refused requests (429 or 503), 2 rests in a row; the next request probes it; "
            "an operator has limited it",
        ),
    ],
)
def test_condition_and_reason(changes: dict[str, Any], condition: str, reason: str) -> None:
    """Each state has one condition, and the reason has the remaining time of the rest."""
    report = HostReport.from_state(replace(_STATE, **changes))
    assert (report.condition, report.reason) == (condition, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"limit": HostLimit(1)}, "its limit was reached (1 open request); images waited for it for 12 s"),
        (
            {"limit": HostLimit(10_000, 1.0)},
            "its limit was reached (1 request per second); images waited for it for 12 s",
        ),
        (
            {"permits": 0, "operator_limit": HostLimit(2, 0.5)},
            "its limit was reached (2 open requests and 0.5 requests per second); images waited for it for 12 s; "
            "an operator has limited it",
        ),
        (
            {"troubled": 40.0},
            "it works again; it rested or was slow 40 s ago; images waited for it for 12 s",
        ),
        ({"parked": 4, "limit": HostLimit(3)}, "its limit is reached; images waited for it for 12 s"),
        ({"limit": None}, "images waited for it for 12 s"),
    ],
)
def test_reason_for_waiting_images(changes: dict[str, Any], reason: str) -> None:
    """If images waited for a host, the reason says why: its limit, or its earlier trouble."""
    assert HostReport.from_state(replace(_STATE, **changes), waited=12.34).reason == reason


def test_worst_hosts_come_first() -> None:
    """Hosts are sorted by condition, then by the number of waiting images."""
    states = [
        replace(_STATE, key="few", parked=1),
        replace(_STATE, key="dead", why=Why.GIVEN_UP, **_SILENT),
        replace(_STATE, key="many", parked=9),
        replace(_STATE, key="idle", permits=0),
    ]
    reports = sorted(map(HostReport.from_state, states), key=lambda report: report.urgency)
    assert [report.host for report in reports] == ["dead", "many", "few", "idle"]


def test_report_survives_json() -> None:
    """A report in run.json can be read back."""
    report = HostReport.from_state(_STATE, waited=12.34)
    reason = "its limit was reached (16 open requests and 5 requests per second); images waited for it for 12 s"
    assert (report.reason, report.rate, report.limit) == (reason, 5.0, 16)
    assert HostReport.from_json(json.loads(json.dumps(asdict(report)))) == report
    assert report.condition is HostCondition.WORKS
