"""A command leaves no process, socket or temporary folder behind, no matter how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import pytest
import redis

from producer.local_fleet.fleet import Fleet, FleetSize, cores
from tasks.broker import client as broker_client
from tests.integration import processes as process_helpers

#: After a command has ended or was killed, all processes that it started must end within this many seconds.
_CLEANUP_SECONDS = 10.0


@dataclass
class Watched:
    """A command, its own folder for temporary files, and all its processes seen so far."""

    command: process_helpers.Background
    temporary: Path
    out: Path
    processes: list[psutil.Process]

    def snapshot(self) -> None:
        """Record the command's current processes. Supervisor processes are found only while their ancestors live."""
        self.processes = self.command.descendants()

    def matching(self, word: str) -> list[psutil.Process]:
        """Return the processes of the command that have this word in their command line."""
        return [process for process in self.processes if any(word in part for part in process.cmdline())]

    def assert_nothing_left(self) -> None:
        """Make sure that all processes and temporary files of the command are gone."""
        assert self.processes
        process_helpers.eventually(
            lambda: not process_helpers.still_running(self.processes), "the end of all processes", _CLEANUP_SECONDS
        )
        process_helpers.eventually(
            lambda: process_helpers.missing_or_empty(self.temporary), "an empty temporary folder", _CLEANUP_SECONDS
        )
        assert process_helpers.missing_or_empty(self.out / ".tmp")

    def assert_ended(self, code: int) -> process_helpers.Completed:
        """Make sure that the command ends with this status and without a traceback."""
        ended = self.command.wait()
        assert ended.code == code, ended.err
        assert "Traceback" not in ended.err
        return ended


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an empty folder for a command's temporary files.

    The folder's path is short enough for a Unix socket in the folder.
    """
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def slow_list(tmp_path: Path, demo_url: str) -> Path:
    """Give a list that keeps a fleet of 16 slots busy for half a minute. The list's first images arrive at once."""
    urls = [f"{demo_url}/images/{number}.jpg" for number in range(4)]
    urls += [f"{demo_url}/images/{number}.jpg?latency=1.5" for number in range(4, 324)]
    source = tmp_path / "slow.txt"
    source.write_text("\n".join(urls))
    return source


@contextmanager
def watched(tmp_path: Path, temporary: Path, out: Path, *arguments: str | Path) -> Iterator[Watched]:
    """Start a command and track its processes."""
    env = {"TMPDIR": str(temporary), "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with process_helpers.started("command", process_helpers.command(arguments), tmp_path, env) as command:
        seen = Watched(command, temporary, out, [])
        try:
            yield seen
        finally:
            # Before the next test, kill the processes that a failed test has left over.
            for process in process_helpers.still_running(seen.processes) if command.process.poll() is not None else []:
                process.kill()


@contextmanager
def mid_run(tmp_path: Path, temporary: Path, slow_list: Path) -> Iterator[Watched]:
    """Start a run with a local fleet of two workers, and wait until the first images are saved."""
    out = tmp_path / "out"
    with watched(
        tmp_path, temporary, out, "run", slow_list, "--out", out, "--workers", "2", "--concurrency", "8", "--json"
    ) as run:
        process_helpers.eventually(lambda: _has_images(run), "the first image")
        run.snapshot()
        assert len(run.matching("celery")) == 2
        assert len(run.matching("redis")) == 1
        assert not process_helpers.missing_or_empty(temporary)
        yield run


def _has_images(run: Watched) -> bool:
    assert run.command.process.poll() is None, run.command.err
    return bool(list(run.out.glob("00000/*.jpg")))


def test_success_leaves_nothing_behind(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """A finished run ends its fleet. The workers have their own sessions, and Redis has no TCP port."""
    out = tmp_path / "out"
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{number}.jpg?latency=0.5\n" for number in range(32)))
    arguments: list[str | Path] = ["run", source, "--out", out, "--workers", "1", "--concurrency", "8", "--json"]
    with watched(tmp_path, temporary, out, *arguments) as run:
        process_helpers.eventually(lambda: _has_images(run), "the first image")
        run.snapshot()
        (server,), (worker,) = run.matching("redis"), run.matching("celery")
        sockets = {connection.laddr for connection in server.net_connections("unix")}
        assert sockets & {str(path) for path in temporary.rglob("*.sock")}
        assert server.net_connections("inet") == []
        assert os.getsid(worker.pid) != os.getsid(run.command.process.pid)
        assert os.getpgid(worker.pid) != os.getpgid(run.command.process.pid)
        facts = run.assert_ended(0).json()
        assert (facts["success"], facts["workers"], facts["concurrency"]) == (32, 1, 8)
        run.assert_nothing_left()


@pytest.mark.parametrize(
    "end",
    [
        # The signal goes to all foreground processes, as a signal from a terminal does. The fleet is not a foreground
        # process.
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGINT), id="sigint"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="sigterm"),
    ],
)
def test_interruption_leaves_nothing_behind(
    tmp_path: Path, temporary: Path, slow_list: Path, end: Callable[[int], None]
) -> None:
    """A second Ctrl-C or SIGTERM gives exit status 130 and keeps saved images. run.json records the interruption."""
    with mid_run(tmp_path, temporary, slow_list) as run:
        end(run.command.process.pid)
        # The first signal lets the downloads in progress finish.
        process_helpers.eventually(
            lambda: "nterrupted" in run.command.err or "Ctrl-C again" in run.command.err, "its response"
        )
        if "Ctrl-C again" in run.command.err:
            end(run.command.process.pid)
        ended = run.assert_ended(130)
        record = json.loads((run.out / "run.json").read_text())
        resume = f"producer resume {run.out}"
        assert json.loads(ended.out) == {
            **{"interrupted": True, "cancelled": False},
            **{"run_id": record["id"], "out": str(run.out), "resume": resume},
        }
        # The message says what happened, then what to do.
        assert ended.err.splitlines()[-1] == f"Resume with: {resume}"
        assert ended.err.splitlines()[-2].startswith("Interrupted.")
        run.assert_nothing_left()
        assert record["state"] == "interrupted"
        assert process_helpers.image_files(run.out)


def test_early_interruption_leaves_nothing_behind(tmp_path: Path, temporary: Path, slow_list: Path) -> None:
    """Ctrl-C during the start of a fleet ends the processes that have been started."""
    out = tmp_path / "out"
    with watched(tmp_path, temporary, out, "run", slow_list, "--out", out, "--workers", "2") as run:

        def is_starting() -> bool:
            run.snapshot()
            return len(run.processes) >= 3

        process_helpers.eventually(is_starting, "the supervisor and its first two processes")
        os.killpg(run.command.process.pid, signal.SIGINT)
        # Nothing is saved yet, so there is no run to resume.
        assert run.assert_ended(130).err.splitlines()[-1] == "Interrupted."
        run.assert_nothing_left()


#: A command that is interrupted twice, each time during the destruction of an object.
_DESTROYED = """
import os, signal, time
from producer.cli import main as cli

class Object:
    def __del__(self):
        ends = time.monotonic() + 0.05
        os.kill(os.getpid(), signal.SIGINT)
        while time.monotonic() < ends:
            pass

def command(**_):
    Object()
    Object()
    time.sleep(60)

cli.cli = command
cli.main()
"""


def test_interruption_is_never_lost() -> None:
    """Ctrl-C works even while Python discards exceptions, as in __del__. The command prints no message about it."""
    argv = [sys.executable, "-c", _DESTROYED]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n")) == (130, 1), ended.stderr


def test_sigkill_leaves_nothing_behind(tmp_path: Path, temporary: Path, slow_list: Path) -> None:
    """The fleet and the temporary files of a killed producer are gone within ten seconds."""
    with mid_run(tmp_path, temporary, slow_list) as run:
        run.command.process.kill()
        assert run.command.wait().code == -signal.SIGKILL
        run.assert_nothing_left()
        process_helpers.eventually(
            lambda: not process_helpers.files_below(run.out / ".tmp"), "no temporary images", _CLEANUP_SECONDS
        )


@pytest.mark.slow
def test_run_continues_after_redis_was_killed(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """A fleet restarts a killed Redis with all data, and the run completes."""
    out = tmp_path / "out"
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{number}.jpg?latency=0.5\n" for number in range(96)))
    arguments: list[str | Path] = ["run", source, "--out", out, "--workers", "1", "--concurrency", "8", "--json"]
    with watched(tmp_path, temporary, out, *arguments) as run:
        process_helpers.eventually(lambda: _has_images(run), "the first image")
        run.snapshot()
        (server,) = run.matching("redis")
        server.kill()
        again = "restarted redis: it was ended by signal 9"
        process_helpers.eventually(lambda: again in run.command.err, "another server")
        run.snapshot()
        assert run.assert_ended(0).json()["success"] == 96
        run.assert_nothing_left()


@pytest.mark.slow
def test_run_continues_after_a_worker_was_killed(tmp_path: Path, temporary: Path, slow_list: Path) -> None:
    """A fleet restarts a killed worker. The worker's tasks are executed, and each image gets its Outcome."""
    with mid_run(tmp_path, temporary, slow_list) as run:
        worker = run.matching("celery")[0]
        name = next(word for word in worker.cmdline() if word.endswith("@%h")).removesuffix("@%h")
        worker.kill()
        again = f"restarted {name}: it was ended by signal 9"
        process_helpers.eventually(lambda: again in run.command.err, "another worker")
        run.snapshot()
        assert run.command.wait(90).json()["success"] == 324
        rows = process_helpers.rows(run.out)
        assert [row["key"] for row in rows] == [f"{index:08d}" for index in range(324)]
        assert process_helpers.image_files(run.out) == {row["path"] for row in rows}
        run.assert_nothing_left()


def test_local_fleet_restarts_killed_processes(tmp_path: Path) -> None:
    """In a local fleet, a killed Redis restarts with its data, and a killed worker restarts under its old name."""
    with (
        process_helpers.app_with_broker(),
        Fleet(FleetSize(1, 1), [tmp_path]) as fleet,
        broker_client.client(fleet.broker_url) as server,
    ):
        server.set("imagefleet.test", "kept")
        pids = fleet.pids
        os.kill(pids["redis"], signal.SIGKILL)
        process_helpers.eventually(lambda: fleet.restarts == {"redis": 1}, "the server's restart")
        assert process_helpers.eventually(lambda: _stored_value(server), "the server") == "kept"
        os.kill(pids["worker-1"], signal.SIGKILL)
        process_helpers.eventually(lambda: fleet.restarts == {"redis": 1, "worker-1": 1}, "the worker's restart")
        assert not set(pids.values()) & set(fleet.pids.values())
        stats = process_helpers.eventually(lambda: process_helpers.worker_stats(fleet.broker_url), "the worker")
        assert [name.partition("@")[0] for name in stats] == ["worker-1"]
        fleet.check()


def test_gives_up_on_a_server_that_keeps_exiting(tmp_path: Path, temporary: Path) -> None:
    """If a fleet gives up, it exits with status 1, prints the end of the server's log, and leaves nothing behind."""
    root = tmp_path / "store"
    root.mkdir()
    with watched(tmp_path, temporary, root, "fleet", "--store-root", root, "--workers", "1") as fleet:
        process_helpers.eventually(lambda: "Press Ctrl-C" in fleet.command.out, "the fleet")
        fleet.snapshot()
        ended: list[int] = []
        for _ in range(4):
            # A server that does not handle SIGTERM yet would be killed by this signal.
            server = process_helpers.eventually(
                lambda: _terminable_server(fleet, ended), "a server that handles SIGTERM"
            )
            assert server is not None
            fleet.processes.append(server)
            ended.append(server.pid)
            server.terminate()
        completed = fleet.command.wait()
        assert completed.code == 1, completed.err
        assert "has ended: redis" in completed.err
        assert "it exited with status 0; its last output: " in completed.err
        fleet.assert_nothing_left()


def _terminable_server(fleet: Watched, known: list[int]) -> psutil.Process | None:
    """Return a fleet's Redis if it handles SIGTERM by now, or None. A Redis with a known process id does not count."""
    for process in process_helpers.still_running(fleet.command.descendants()):
        try:
            words = process.cmdline()
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except (psutil.Error, OSError):
            continue
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if process.pid not in known and any("redis" in word for word in words) and caught >> signal.SIGTERM - 1 & 1:
            return process
    return None


def _stored_value(server: redis.Redis) -> str | None:
    try:
        return cast("str | None", server.get("imagefleet.test"))
    except redis.ConnectionError:
        return None


@pytest.mark.parametrize(
    ("setting", "value"),
    [("ALLOW_NETWORKS", "not/a/network"), ("CA_BUNDLE", "/no/such/file.pem"), ("PREFETCH", "many")],
)
def test_unusable_worker_setting_leaves_nothing_behind(
    tmp_path: Path, temporary: Path, demo_url: str, setting: str, value: str
) -> None:
    """If workers can't use a setting, the run ends at its start with exit status 1 or 2. The message names it."""
    out = tmp_path / "out"
    source = tmp_path / "list.txt"
    source.write_text(f"{demo_url}/images/1.jpg\n")
    env = {"TMPDIR": str(temporary), f"IMAGEFLEET_{setting}": value}
    argv = process_helpers.command(["run", source, "--out", out, "--workers", "1", "--json"])
    with process_helpers.started("run", argv, tmp_path, env) as command:
        try:
            ended = command.wait(15)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run does not end although its workers can fetch nothing: {command.err}")
        assert ended.code in (1, 2), ended.err
        _, why, todo = process_helpers.error_parts(ended)
        assert value in why or setting in why
        assert "--debug" not in todo
        assert process_helpers.missing_or_empty(temporary)
        assert process_helpers.image_files(out) == set()


def test_broker_that_is_no_redis_leaves_nothing_behind(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """An address with another kind of server ends the run at once, with a clear message."""
    url = demo_url.replace("http://", "redis://") + "/0"
    ended = process_helpers.producer(
        *("run", "-", "--out", tmp_path / "out", "--broker", url),
        env={"TMPDIR": str(temporary)},
        stdin=f"{demo_url}/images/1.jpg".encode(),
    )
    assert ended.code == 1
    what, _, todo = process_helpers.error_parts(ended)
    assert url.removeprefix("redis://") in what
    assert "--debug" not in todo
    assert process_helpers.missing_or_empty(temporary)
    assert process_helpers.missing_or_empty(tmp_path / "out/.tmp")


def test_standing_fleet_serves_runs_and_ends(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """`producer fleet` serves run after run. On Ctrl-C, it ends with exit status 0 and leaves nothing behind."""
    root = tmp_path / "store"
    root.mkdir()
    with watched(tmp_path, temporary, root, "fleet", "--store-root", root, "--workers", "1") as fleet:
        broker = process_helpers.eventually(lambda: _word_after("--broker", fleet.command.out), "the broker's URL")
        fleet.snapshot()
        for number in (1, 2):
            ended = process_helpers.producer(
                *("run", "-", "--out", root / f"run-{number}", "--broker", broker, "--json"),
                stdin=f"{demo_url}/images/{number}.jpg".encode(),
            )
            assert ended.json()["success"] == 1
            assert process_helpers.missing_or_empty(root / f"run-{number}/.tmp")
        os.killpg(fleet.command.process.pid, signal.SIGINT)
        assert re.search(r"\bimages?\b", fleet.assert_ended(0).err) is None
        fleet.assert_nothing_left()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system can't pin processes to cores")
@pytest.mark.parametrize("more", [more for more in (-1, 0, 1) if len(cores()) + more])
def test_pins_workers_to_cores(tmp_path: Path, temporary: Path, more: int) -> None:
    """If there are at least as many workers as cores, they are pinned evenly.

    If there are fewer workers than cores, each worker may use all cores.
    """
    allowed = cores()
    workers = len(allowed) + more
    root = tmp_path / "store"
    root.mkdir()
    with watched(tmp_path, temporary, root, "fleet", "--store-root", root, "--workers", str(workers)) as fleet:
        process_helpers.eventually(lambda: _word_after("--broker", fleet.command.out), "the broker's URL")
        fleet.snapshot()
        places = [_cores_of(process) for process in fleet.matching("@%h")]
        everywhere = {tuple(allowed)}
        spread = [{(allowed[worker % len(allowed)],)} for worker in range(workers)]
        assert sorted(places, key=str) == sorted([everywhere] * workers if more < 0 else spread, key=str)
        os.killpg(fleet.command.process.pid, signal.SIGINT)
        fleet.assert_ended(0)


def _cores_of(process: psutil.Process) -> set[tuple[int, ...]]:
    """Return, for a process, the sets of cores on which its threads may run."""
    return {tuple(sorted(os.sched_getaffinity(thread.id))) for thread in process.threads()}


def _word_after(word: str, text: str) -> str:
    words = text.split()
    return words[words.index(word) + 1] if word in words[:-1] else ""
