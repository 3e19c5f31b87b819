"""The progress of a run, as a person sees it in two terminals, and as other programs get it.

The last images of the run wait for a server that never answers, so the numbers stand still while they are compared.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import required
from tests.integration import processes

#: The numbers of images that are saved, that fail, and that hang.
_SAVED, _FAILED, _HANGING = 40, 5, 8
_ENDED = _SAVED + _FAILED
_TOTAL = _ENDED + _HANGING
#: The keys of a status that count images and bytes.
_COUNTS = ("success", "failed", "reasons", "bytes", "ended", "planned")


@dataclass(frozen=True)
class Terminals:
    """Terminals of tmux, each with its own size and command."""

    program: str
    socket: Path

    def run(self, *arguments: str) -> str:
        """Run a command of tmux, and return its output."""
        argv = [self.program, "-S", str(self.socket), "-f", "/dev/null", *arguments]
        env = processes.environment({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"})
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout

    def start(self, name: str, width: int, argv: list[str]) -> None:
        """Start a command in a new terminal of this width, which stays open after the command's end."""
        command = f"{shlex.join(argv)}; exec sleep 600"
        self.run("new-session", "-d", "-s", name, "-x", str(width), "-y", "30", "-c", str(processes.ROOT), command)

    def rows(self, name: str) -> list[str]:
        """Return the rows on a terminal that are not empty."""
        return [row.rstrip() for row in self.run("capture-pane", "-p", "-t", name).splitlines() if row.strip()]


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    """Give terminals that end with the test."""
    made = Terminals(required("tmux"), tmp_path / "tmux")
    # Without a session, tmux's server would end before the first terminal is opened.
    made.run("start-server", ";", "set-option", "-g", "exit-empty", "off")
    yield made
    made.run("kill-server")


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Give a server that never answers. When it is closed, all its connections are reset."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        # The kernel accepts connections for a program that does not.
        server.listen(64)
        yield server


@pytest.fixture
def source(demo_url: str, silent: socket.socket, tmp_path: Path) -> Path:
    """Give a list whose last images hang."""
    urls = [f"{demo_url}/images/{index}.png" for index in range(_SAVED)]
    urls += [f"{demo_url}/fault/not-found?image={index}" for index in range(_FAILED)]
    urls += [f"http://127.0.0.1:{silent.getsockname()[1]}/{index}.png" for index in range(_HANGING)]
    source = tmp_path / "list.txt"
    source.write_text("\n".join(urls))
    return source


def status(out: Path) -> dict[str, Any]:
    """Return the status of a run, as JSON."""
    return processes.producer("status", out, "--json").json()


def cells(rows: list[str]) -> dict[str, str]:
    """Return the text of each row by its label."""
    found = (re.fullmatch(r"(\w+) +(.*)", row) for row in rows)
    return {match[1]: match[2] for match in found if match is not None}


def test_two_terminals_show_the_same_run(fleet: str, out: Path, source: Path, terminals: Terminals) -> None:
    """A run at 80 columns, and its status at 200 columns, have the same rows and the same counts.

    After the run was ended, both terminals show no row of the progress any more.
    """
    run = ["run", str(source), "--out", str(out), "--broker", fleet, "--timeout", "50", "--shard-size", "10"]
    terminals.start("run", 80, processes.command(run))
    processes.eventually((out / "run.json").exists, "the run")
    terminals.start("status", 200, processes.command(["status", str(out), "--watch"]))
    counts = f" 84% {_ENDED}/{_TOTAL}"

    def standing(name: str) -> list[str]:
        rows = terminals.rows(name)
        return rows if any(counts in row for row in rows) and cells(rows).get("slowest") else []

    narrow = processes.eventually(lambda: standing("run"), "the progress at 80 columns")
    wide = processes.eventually(lambda: standing("status"), "the progress at 200 columns")
    assert max(map(len, narrow)) <= 80
    # A path that is too long for its row is cut.
    for label, path in (("folder", out), ("list", source)):
        assert str(path).startswith(cells(wide)[label].removesuffix("…"))
    labels = ["images", "now", "average", "saved", "failed", "fleet", "slowest"]
    assert [label for label in cells(narrow) if label in labels] == labels
    assert [label for label in cells(wide) if label in labels] == labels
    for label in ("saved", "failed", "fleet"):
        assert cells(narrow)[label] == cells(wide)[label]
    assert cells(narrow)["failed"] == f"{_FAILED}: {_FAILED} http_4xx"
    assert cells(narrow)["fleet"].startswith("2 workers online, ")
    assert re.match(rf"{_SAVED} images, [\d.]+ KiB$", cells(narrow)["saved"])
    narrow_bar, wide_bar = (next(line for line in rows if line.startswith("images")) for rows in (narrow, wide))
    # The bar is as wide as the widest row, which is wider than 80 columns if the path is long.
    assert 80 == len(narrow_bar) <= len(wide_bar) <= 200
    assert processes.producer("cancel", out).code == 0
    ended = processes.eventually(
        lambda: rows if "Resume with" in "".join(rows := terminals.rows("run")) else [], "the end of the run"
    )
    assert not any(row.startswith(("images", "now", "saved")) for row in ended)
    last = processes.eventually(
        lambda: found if "cancelled" in (found := cells(terminals.rows("status"))).get("state", "") else {}, "the end"
    )
    assert last["next"].startswith(f"producer resume {out}")
    assert "now" not in last


def test_status_has_the_numbers_of_the_run(fleet: str, out: Path, source: Path, tmp_path: Path) -> None:
    """The status comes from Redis while the run lives. After its producer was killed, it comes from the files.

    The run's output goes to a file, so the run prints the same numbers as a plain line without control characters.
    """
    argv = processes.command(["run", source, "--out", out, "--broker", fleet, "--timeout", "50", "--shard-size", "10"])
    with processes.started("run", argv, tmp_path) as running:
        processes.eventually((out / "run.json").exists, "the run")
        live = processes.eventually(
            lambda: found if (found := status(out))["live"] and found["ended"] == _ENDED else {}, "the live status"
        )
        assert (live["state"], live["planned"], live["plan_complete"]) == ("running", _TOTAL, True)
        assert (live["success"], live["failed"], live["reasons"]) == (_SAVED, _FAILED, {"http_4xx": _FAILED})
        assert (live["fleet"]["workers"], live["shards_in_flight"]) == (2, 2)
        assert live["speed"]["average_images_per_second"] > 0
        stream = processes.command(["status", str(out), "--watch", "--json"])
        with processes.started("watch", stream, tmp_path) as watching:
            processes.eventually(lambda: len(watching.out.splitlines()) > 1, "two objects")
            watching.process.send_signal(signal.SIGINT)
            assert watching.wait().code == 0
        assert all(json.loads(line)["success"] == _SAVED for line in watching.out.splitlines())
        # When the reader of the stream ends, the command ends too.
        pipeline = ["sh", "-c", f"{shlex.join(stream)} | head -n 1"]
        done = subprocess.run(pipeline, env=processes.environment({}), capture_output=True, timeout=30, check=True)
        assert json.loads(done.stdout)["live"]

        line = re.compile(
            rf"^images: {_ENDED} of {_TOTAL} images \(84%\) .*, {_FAILED} failed \(http_4xx\)", re.MULTILINE
        )
        processes.eventually(lambda: line.search(running.err), "a line of progress")
        assert running.err.replace("\n", "").isprintable()
        running.process.kill()
        running.process.wait()
    killed = status(out)
    assert (killed["state"], killed["live"]) == ("killed", False)
    # Four shards are complete. The five failed images are in a shard with images that hang.
    assert (killed["success"], killed["failed"], killed["next"]) == (
        _SAVED,
        0,
        f"producer resume {out} --broker {fleet}",
    )
    assert killed["bytes"] == live["bytes"]
    check_resumed(fleet, out, live, tmp_path)


def check_resumed(fleet: str, out: Path, before: dict[str, Any], folder: Path) -> None:
    """Resume a run whose producer was killed. Its numbers cover the whole run, and its speed only the new command."""
    with processes.started("resume", processes.command(["resume", out, "--broker", fleet]), folder) as resumed:
        # The progress of the killed producer stays in Redis until the new producer is connected.
        again = processes.eventually(
            lambda: found if (found := status(out))["live"] and found["done_before"] == _ENDED else {},
            "the new numbers",
        )
        assert {name: again[name] for name in _COUNTS} == {name: before[name] for name in _COUNTS}
        assert again["speed"]["average_images_per_second"] == again["speed"]["average_bytes_per_second"] == 0
        line = re.compile(
            rf"^images: {_ENDED} of {_TOTAL} images .*, {_FAILED} failed .*, {_ENDED} finished before", re.MULTILINE
        )
        processes.eventually(lambda: line.search(resumed.err), "a line of the resumed run")
        assert processes.producer("cancel", out).code == 0
        assert resumed.wait().code == 130


def test_result_in_a_log_in_json(fleet: str, demo_url: str, out: Path) -> None:
    """The last line of the log has the result, with the same values as --json. Each line names the run."""
    source = f"{demo_url}/images/1.png\n{demo_url}/fault/not-found".encode()
    arguments = ("run", "-", "--out", out, "--broker", fleet, "--json", "--log-format", "json")
    ended = processes.producer(*arguments, stdin=source)
    *_, last = map(json.loads, ended.err.splitlines())
    assert (last["event"], last["message"]) == ("complete", "The run is complete: 1 image saved, 1 failed")
    assert last | ended.json() == last
    assert last["reasons"] == {"http_4xx": 1}


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_no_progress_on_request(fleet: str, demo_url: str, out: Path, option: str) -> None:
    """With --json and with --quiet, nothing is on standard error. --quiet still prints the report.

    Neither the report nor the status has control characters if standard output is not a terminal.
    """
    source = f"{demo_url}/images/1.png\n{demo_url}/fault/not-found".encode()
    ended = processes.producer("run", "-", "--out", out, "--broker", fleet, option, stdin=source)
    shown = processes.producer("status", out)
    # Workers that had trouble in another test are still named.
    lines = [line for line in ended.err.splitlines() if not line.startswith("Warning: some workers have problems")]
    assert (ended.code, lines, shown.code) == (0, [], 0)
    assert ended.out.startswith("{" if option == "--json" else "Total Execution Time")
    assert (ended.out + shown.out).replace("\n", "").isprintable()
    status_rows = cells(shown.out.splitlines())
    assert status_rows["images"].endswith("100% 2/2")
    assert (status_rows["failed"], status_rows["next"]) == ("1: 1 http_4xx", f"producer failures {out}")


def test_errors_in_a_log_in_json(tmp_path: Path) -> None:
    """Errors, also those of the command line, are JSON objects in the log."""
    for arguments, code in ((("missing.txt", "--out", "out"), 2), (("list.txt",), 2)):
        argv = [sys.executable, "-m", "producer", "run", "--log-format", "json", *arguments]
        ended = subprocess.run(
            argv, cwd=tmp_path, env=processes.environment({}), capture_output=True, text=True, check=False
        )
        (line,) = map(json.loads, ended.stderr.splitlines())
        assert (ended.returncode, line["level"], line["event"], line["exit_code"]) == (code, "error", "error", code)
        assert line["todo"]
