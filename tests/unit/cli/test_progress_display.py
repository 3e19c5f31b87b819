"""Progress is rows on a terminal, and lines elsewhere. Both are calm."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from producer.cli import json_log, progress_display
from producer.cli.progress_display import Display
from producer.dispatch.progress import Progress
from tests.unit.cli.progresses import FULL

_COMMAND = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Watch:
    """Replace the clock with one that the test sets."""

    now = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return the display's clock."""
    watch = Watch()
    monkeypatch.setattr(progress_display, "time", watch)
    return watch


@pytest.fixture
def log_in_json() -> Iterator[None]:
    """Turn the log in JSON on, and off again after the test."""
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    json_log.turn_on()
    yield
    logging.captureWarnings(capture=False)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


def console(terminal: bool, width: int = 80) -> Console:
    """Return a console that records its output."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=24)


def written(screen: Console) -> str:
    """Return everything that was written."""
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def written_lines(screen: Console) -> list[str]:
    """Return the written lines that are not empty, without terminal commands."""
    lines = _COMMAND.sub("", written(screen)).replace("\r", "\n").split("\n")
    return [line.rstrip() for line in lines if line.strip()]


def test_terminal_is_updated_four_times_a_second(watch: Watch) -> None:
    """Reports that follow each other faster are left out."""
    screen = console(terminal=True)
    with Display(screen) as display:
        for number in range(100):
            display.show(replace(FULL, success=number))
            watch.now += 0.05
        assert sum(line.startswith("saved") for line in written_lines(screen)) == 20


def test_rows_are_gone_at_the_end(watch: Watch) -> None:
    """The rows are erased at the end. An announcement is shown once, and stays on its own line."""
    screen = console(terminal=True)
    with Display(screen) as display:
        display.show(Progress(1, 0, 10, 20, plan_complete=True))
        display.announce("Finishing 3 images.")
        display.announce("Finishing 2 images.")
    # For each row: move up one line, and erase it. There are rows for the images, the saved and the failed images.
    assert written(screen).endswith("\x1b[1A\x1b[2K" * 3)
    assert "Finishing 3 images." in written_lines(screen)
    assert "Finishing 2 images." not in written_lines(screen)


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}])
def test_no_control_characters_without_a_terminal(environment: dict[str, str], watch: Watch) -> None:
    """A file, and a terminal without commands, get plain lines every five seconds."""
    screen = Console(file=io.StringIO(), force_terminal=bool(environment), width=80, _environ=environment)
    with Display(screen) as display:
        for _ in range(11):
            display.show(FULL)
            watch.now += 1
    assert written(screen).replace("\n", "").isprintable()
    lines = written_lines(screen)
    assert len(lines) == 6
    assert lines[0].startswith("images: 6,213 of 10,000 images (62%) after 42 s")
    assert lines[1] == "212 images wait for busy hosts, most for cdn.a.example"
    assert lines[2].startswith("resting: cdn.a.example (given up, 0:09:00 left), d.example (rests, 0:00:12 left)")


def test_note_is_a_line_without_a_terminal(watch: Watch) -> None:
    """A note is printed when it changes."""
    screen = console(terminal=False)
    with Display(screen) as display:
        for note in ("", "waiting", "waiting", "", "waiting"):
            display.show(replace(FULL, note=note))
    assert written_lines(screen) == ["waiting", "waiting"]


def test_quiet_shows_only_announcements(watch: Watch) -> None:
    """With ``quiet``, no progress is shown, on a terminal or elsewhere."""
    for terminal in (True, False):
        screen = console(terminal)
        with Display(screen, quiet=True) as display:
            watch.now += 60
            display.show(FULL)
            display.announce("Finishing 3 images.")
        assert written(screen) == "Finishing 3 images.\n"


@pytest.mark.usefixtures("log_in_json")
def test_progress_in_a_log_in_json(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    """Even on a terminal, each line is a JSON object. The progress has all its numbers."""
    with Display(console(terminal=True)) as display:
        watch.now += 5
        display.show(replace(FULL, note="Redis does not answer (\x1b[2J, http://user:word@a.example/)"))
        display.announce("Finishing 3 images.")
    note, progress, announced = map(json.loads, capsys.readouterr().err.splitlines())
    assert note["message"] == "Redis does not answer (\ufffd[2J, http://***@a.example/)"
    assert (progress["level"], progress["event"], progress["ended"]) == ("info", "progress", 6213)
    assert (progress["success"], progress["reasons"]) == (6172, {"http_4xx": 30, "timeout": 8, "dns": 3})
    assert progress["fleet"]["resting"][0]["condition"] == "given up"
    assert progress["note"] == note["message"]
    assert announced["message"] == "Finishing 3 images."
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", announced["time"])


@pytest.mark.usefixtures("log_in_json")
def test_messages_of_libraries_in_a_log_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings of the logging module become JSON lines too, with their exception. Debug messages are left out."""
    log = logging.getLogger("producer.dispatch.test")
    log.debug("left out")
    try:
        raise ValueError("\x07bell")
    except ValueError:
        log.warning("lost %d tasks", 2, exc_info=True)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["logger"], line["message"]) == ("warning", log.name, "lost 2 tasks")
    assert line["exception"].endswith("ValueError: \ufffdbell")


@pytest.mark.usefixtures("log_in_json")
def test_failing_log_does_not_reach_the_code_that_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that does not fit its arguments, or a closed pipe, ends neither a library's thread nor the command."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log = logging.getLogger("kombu.test")
    log.warning("lost %d tasks", "two")
    monkeypatch.setattr("producer.cli.json_log.click.echo", lambda *_, **__: (_ for _ in ()).throw(BrokenPipeError()))
    log.warning("lost two tasks")
