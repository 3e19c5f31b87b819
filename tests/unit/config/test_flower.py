"""Flower's counts and texts for a task, from events in Celery's format."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from config.flower_tasks import adjust_event, format_line, format_page
from config.settings import FLOWER_CONF
from tasks.model import Outcome, Reason, Status

_SAVED = Outcome(
    "00000007", Status.SUCCESS, path="00000/00000007.jpg", width=400, height=200, format="jpeg", bytes=15_339
)
_MISSING = Outcome("00000008", Status.FAILED_TO_DOWNLOAD, Reason.HTTP_4XX, "HTTP 404 Not Found", http_status=404)
#: Results that are not Outcomes: another task's result, a truncated Outcome, and texts that resemble an Outcome.
_OTHERS = [
    "None",
    "''",
    "{}",
    "{'key': '0000",
    "{'status': 'failed_to_download'}",
    "[{'key': '1', 'status': 'x'}]",
    "é" * 999,
]


def event_text(outcome: Outcome) -> str:
    """Return the text of an Outcome in a worker's event."""
    return str(saferepr(outcome.to_json(), 1024))


def success_event(result: str) -> dict[str, Any]:
    """Return the event of a task with this result."""
    return {"type": "task-succeeded", "uuid": "a", "result": result, "runtime": 0.1}


def test_saved_image_in_a_line() -> None:
    """A saved image is shown with its size, format and bytes."""
    assert format_line(event_text(_SAVED)) == "success: 400x200 jpeg, 15,339 bytes"


def test_failed_image_in_a_line() -> None:
    """A failed image is shown with its status, reason and message. The message may have any length."""
    assert format_line(event_text(_MISSING)) == "failed_to_download: http_4xx (HTTP 404 Not Found)"
    words = "it's no image " * 14
    long = Outcome("1", Status.FAILED_TO_RESIZE, Reason.NOT_IMAGE, words)
    assert format_line(event_text(long)) == f"failed_to_resize: not_image ({words})"


def test_page_has_all_fields() -> None:
    """A task's page has every field with a value, in the manifest's order."""
    assert format_page(event_text(_MISSING)) == (
        "key: 00000008\nstatus: failed_to_download\nreason: http_4xx\nerror_message: HTTP 404 Not Found\n"
        "http_status: 404\nattempts: 0\nfetch_seconds: 0.0\nfinished_at: 0.0"
    )


@given(
    st.builds(
        Outcome,
        key=st.from_regex(r"[0-9]{1,12}", fullmatch=True),
        status=st.sampled_from(Status),
        reason=st.none() | st.sampled_from(Reason),
        error_message=st.none() | st.text(alphabet="a1':,{}\\\n\té", max_size=40),
        bytes=st.none() | st.integers(0, 2**40),
        final_url=st.none() | st.text(alphabet="a1':,{}\\\n\té", max_size=40),
        fetch_seconds=st.floats(0, 1e6),
        recovered=st.booleans(),
    )
)
def test_any_outcome_is_read(outcome: Outcome) -> None:
    """Quotes, backslashes and line ends in a server's texts change neither fields nor state."""
    values = outcome.to_json()
    assert format_page(event_text(outcome)) == "\n".join(f"{name}: {value}" for name, value in values.items())
    assert adjust_event(success_event(event_text(outcome)))["type"] == (
        "task-succeeded" if outcome.ok else "task-failed"
    )
    assert format_line(event_text(outcome)).startswith(f"{outcome.status}: ")


@pytest.mark.parametrize("result", _OTHERS)
def test_other_results_are_unchanged(result: str) -> None:
    """A result that is not an Outcome is shown unchanged. Such a result does not count as a failure."""
    assert format_line(result) == format_page(result) == result
    assert adjust_event(success_event(result)) == success_event(result)


def test_failed_image_is_a_failed_task() -> None:
    """Only the event's type changes, and only in a copy, because other code may hold the original event."""
    event = success_event(event_text(_MISSING))
    assert adjust_event(event) == {**event, "type": "task-failed"}
    assert event["type"] == "task-succeeded"
    assert adjust_event(success_event(event_text(_SAVED))) == success_event(event_text(_SAVED))


def test_other_events_are_unchanged() -> None:
    """Events of workers and unfinished tasks are unchanged."""
    for event in ({"type": "worker-heartbeat"}, {"type": "task-started", "uuid": "a"}, {"type": "task-succeeded"}):
        assert adjust_event(event) == event
    image = {"type": "task-received", "name": "tasks.jobs.fetch_image", "args": "http://a.example/", "kwargs": "{}"}
    assert adjust_event(image) == image


@pytest.mark.parametrize(
    ("kwargs", "shown"),
    [("{'run_id': 'a', 'shard': 12}", "Outcomes of shard 12"), (None, "Outcomes of shard None")],
)
def test_collect_task_shows_its_shard(kwargs: str | None, shown: str) -> None:
    """A collect task shows its shard's number instead of its Outcomes."""
    event = {"type": "task-received", "name": "tasks.jobs.collect_shard", "args": "[{…}]", "kwargs": kwargs}
    assert adjust_event(event) == {**event, "args": shown}


def test_flower_accepts_the_configuration(tmp_path: Path) -> None:
    """Flower knows every option in the file, even if the file is read twice.

    Tornado would ignore a misspelled option.
    """
    (tmp_path / "password").write_text("a secret\n")
    code = f"""
from types import SimpleNamespace
import flower.events, flower.options, flower.urls
from flower.views.monitor import Healthcheck, Metrics
from flower.views.tasks import visible_task_columns
from tornado.options import options, parse_config_file
from tornado.routing import URLSpec
for _ in range(2):
    parse_config_file({str(FLOWER_CONF)!r})
assert options.basic_auth == ["imagefleet:a secret"], options.basic_auth
assert options.read_only
assert not (options.persistent or options.natural_time or options.enable_events)
assert (options.max_tasks, options.max_workers, options.purge_offline_workers) == (20000, 1000, 300)
assert len(visible_task_columns(options.tasks_columns)) == options.tasks_columns.count(",") + 1
shown = options.format_task(SimpleNamespace(result={event_text(_MISSING)!r})).result
assert shown == "failed_to_download: http_4xx (HTTP 404 Not Found)", shown
assert options.format_task(SimpleNamespace(result=None)).result is None
handlers = [rule.handler_class if isinstance(rule, URLSpec) else rule[1] for rule in flower.urls.handlers]
assert {{handler for handler in handlers if handler.__name__ != "Protected"}} == {{Healthcheck, Metrics}}
"""
    env = {
        **os.environ,
        "IMAGEFLEET_FLOWER_PASSWORD_FILE": str(tmp_path / "password"),
        "IMAGEFLEET_TASK_EVENTS": "off",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
