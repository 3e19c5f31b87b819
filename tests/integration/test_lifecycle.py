"""However a command ends, nothing of it is left: no process, no socket, no temporary folder."""

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

from producer.local import Fleet, FleetSize, cores
from tasks import broker
from tests.integration import parts

#: Seconds within which all that was started has to be gone once its command has ended, or was killed.
_GONE = 10.0


@dataclass
class Watched:
    """A command with its own folder for temporary files, and all processes that it was seen to have."""

    command: parts.Background
    temporary: Path
    out: Path
    family: list[psutil.Process]

    def look(self) -> None:
        """Remember the processes that it has now; the keeper's are found only while their ancestors live."""
        self.family = self.command.descendants()

    def named(self, word: str) -> list[psutil.Process]:
        """Its processes whose command line has a word."""
        return [process for process in self.family if any(word in part for part in process.cmdline())]

    def assert_nothing_left(self) -> None:
        """Make sure that all processes seen are gone, and every temporary file with them."""
        assert self.family
        parts.eventually(lambda: not parts.still_running(self.family), "the end of all processes", _GONE)
        parts.eventually(lambda: parts.missing_or_empty(self.temporary), "an empty temporary folder", _GONE)
        assert parts.missing_or_empty(self.out / ".tmp")

    def assert_told(self, code: int) -> parts.Completed:
        """Make sure that it ends with this status and without a traceback."""
        ended = self.command.wait()
        assert ended.code == code, ended.err
        assert "Traceback" not in ended.err
        return ended


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an empty folder for a command's temporary files; its path is short enough for a socket below it."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def slow_list(tmp_path: Path, demo_url: str) -> Path:
    """Give a list that a fleet of 16 slots is at for half a minute, though its first images come at once."""
    urls = [f"{demo_url}/images/{number}.jpg" for number in range(4)]
    urls += [f"{demo_url}/images/{number}.jpg?latency=1.5" for number in range(4, 324)]
    source = tmp_path / "slow.txt"
    source.write_text("\n".join(urls))
    return source


@contextmanager
def watched(tmp_path: Path, temporary: Path, out: Path, *arguments: str | Path) -> Iterator[Watched]:
    """Start a command and look after what it starts."""
    env = {"TMPDIR": str(temporary), "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with parts.started("command", parts.command(arguments), tmp_path, env) as command:
        seen = Watched(command, temporary, out, [])
        try:
            yield seen
        finally:
            # What a failed test has shown to be left over is not left for the next one.
            for process in parts.still_running(seen.family) if command.process.poll() is not None else []:
                process.kill()


@contextmanager
def mid_run(tmp_path: Path, temporary: Path, slow_list: Path) -> Iterator[Watched]:
    """Start a run by a local fleet of two workers, and go on when it has saved its first images."""
    out = tmp_path / "out"
    with watched(
        tmp_path, temporary, out, "run", slow_list, "--out", out, "--workers", "2", "--concurrency", "8", "--json"
    ) as run:
        parts.eventually(lambda: _has_images(run), "the first image")
        run.look()
        assert len(run.named("celery")) == 2
        assert len(run.named("redis")) == 1
        assert not parts.missing_or_empty(temporary)
        yield run


def _has_images(run: Watched) -> bool:
    assert run.command.process.poll() is None, run.command.err
    return bool(list(run.out.glob("00000/*.jpg")))


def test_nothing_is_left_after_success(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """A run that ends well ends its fleet; workers have sessions of their own, and the server has no TCP port."""
    out = tmp_path / "out"
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{number}.jpg?latency=0.5\n" for number in range(32)))
    arguments: list[str | Path] = ["run", source, "--out", out, "--workers", "1", "--concurrency", "8", "--json"]
    with watched(tmp_path, temporary, out, *arguments) as run:
        parts.eventually(lambda: _has_images(run), "the first image")
        run.look()
        (server,), (worker,) = run.named("redis"), run.named("celery")
        sockets = {connection.laddr for connection in server.net_connections("unix")}
        assert sockets & {str(path) for path in temporary.rglob("*.sock")}
        assert server.net_connections("inet") == []
        assert os.getsid(worker.pid) != os.getsid(run.command.process.pid)
        assert os.getpgid(worker.pid) != os.getpgid(run.command.process.pid)
        facts = run.assert_told(0).json()
        assert (facts["success"], facts["workers"], facts["concurrency"]) == (32, 1, 8)
        run.assert_nothing_left()


@pytest.mark.parametrize(
    "end",
    [
        # As a terminal does it: to all of its foreground, which the fleet is no part of.
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGINT), id="sigint"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="sigterm"),
    ],
)
def test_nothing_is_left_after_interruption(
    tmp_path: Path, temporary: Path, slow_list: Path, end: Callable[[int], None]
) -> None:
    """Ctrl-C or SIGTERM twice gives exit status 130, leaves what was saved, and says in run.json what happened."""
    with mid_run(tmp_path, temporary, slow_list) as run:
        end(run.command.process.pid)
        # The first one finishes what is being downloaded.
        parts.eventually(lambda: "nterrupted" in run.command.err or "Ctrl-C again" in run.command.err, "its answer")
        if "Ctrl-C again" in run.command.err:
            end(run.command.process.pid)
        ended = run.assert_told(130)
        record = json.loads((run.out / "run.json").read_text())
        resume = f"producer resume {run.out}"
        assert json.loads(ended.out) == {
            **{"interrupted": True, "cancelled": False},
            **{"run_id": record["id"], "out": str(run.out), "resume": resume},
        }
        # What happened, and then what to do.
        assert ended.err.splitlines()[-1] == f"Go on by: {resume}"
        assert ended.err.splitlines()[-2].startswith("Interrupted.")
        run.assert_nothing_left()
        assert record["state"] == "interrupted"
        assert parts.image_files(run.out)


def test_nothing_is_left_after_an_early_interruption(tmp_path: Path, temporary: Path, slow_list: Path) -> None:
    """Ctrl-C while the fleet is still coming up ends what has been started of it."""
    out = tmp_path / "out"
    with watched(tmp_path, temporary, out, "run", slow_list, "--out", out, "--workers", "2") as run:

        def coming_up() -> bool:
            run.look()
            return len(run.family) >= 3

        parts.eventually(coming_up, "the keeper and its first two processes")
        os.killpg(run.command.process.pid, signal.SIGINT)
        # Nothing is saved yet, and there is no run to resume.
        assert run.assert_told(130).err.splitlines()[-1] == "Interrupted."
        run.assert_nothing_left()


#: A command that is interrupted, twice, while an object is being destroyed.
_DESTROYED = """
import os, signal, time
from producer import cli

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
    """Ctrl-C at a moment when Python drops what is raised is heard all the same, and nothing is said of it."""
    argv = [sys.executable, "-c", _DESTROYED]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n")) == (130, 1), ended.stderr


def test_nothing_is_left_after_sigkill(tmp_path: Path, temporary: Path, slow_list: Path) -> None:
    """A producer that is killed takes its fleet and its temporary files with it within ten seconds."""
    with mid_run(tmp_path, temporary, slow_list) as run:
        run.command.process.kill()
        assert run.command.wait().code == -signal.SIGKILL
        run.assert_nothing_left()
        parts.eventually(lambda: not parts.files_below(run.out / ".tmp"), "no temporary images", _GONE)


@pytest.mark.slow
def test_run_goes_on_after_the_server_died(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """A fleet whose Redis is killed starts it again with what it held, and the run completes."""
    out = tmp_path / "out"
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{number}.jpg?latency=0.5\n" for number in range(96)))
    arguments: list[str | Path] = ["run", source, "--out", out, "--workers", "1", "--concurrency", "8", "--json"]
    with watched(tmp_path, temporary, out, *arguments) as run:
        parts.eventually(lambda: _has_images(run), "the first image")
        run.look()
        (server,) = run.named("redis")
        server.kill()
        again = "redis is started again: it was ended by signal 9"
        parts.eventually(lambda: again in run.command.err, "another server")
        run.look()
        assert run.assert_told(0).json()["success"] == 96
        run.assert_nothing_left()


@pytest.mark.slow
def test_run_goes_on_after_a_worker_died(tmp_path: Path, temporary: Path, slow_list: Path) -> None:
    """A fleet whose worker is killed starts it again; what it was at is done, and each image has its Outcome."""
    with mid_run(tmp_path, temporary, slow_list) as run:
        worker = run.named("celery")[0]
        name = next(word for word in worker.cmdline() if word.endswith("@%h")).removesuffix("@%h")
        worker.kill()
        again = f"{name} is started again: it was ended by signal 9"
        parts.eventually(lambda: again in run.command.err, "another worker")
        run.look()
        assert run.command.wait(90).json()["success"] == 324
        rows = parts.rows(run.out)
        assert [row["key"] for row in rows] == [f"{index:08d}" for index in range(324)]
        assert parts.image_files(run.out) == {row["path"] for row in rows}
        run.assert_nothing_left()


def test_killed_processes_of_a_fleet_come_back(tmp_path: Path) -> None:
    """A local fleet's Redis that is killed is there again with its data, and its worker answers to its name."""
    with (
        parts.app_with_broker(),
        Fleet(FleetSize(1, 1), [tmp_path]) as fleet,
        broker.client(fleet.broker_url) as server,
    ):
        server.set("imagefleet.test", "kept")
        pids = fleet.pids
        os.kill(pids["redis"], signal.SIGKILL)
        parts.eventually(lambda: fleet.restarts == {"redis": 1}, "the server's restart")
        assert parts.eventually(lambda: _held(server), "the server") == "kept"
        os.kill(pids["worker-1"], signal.SIGKILL)
        parts.eventually(lambda: fleet.restarts == {"redis": 1, "worker-1": 1}, "the worker's restart")
        assert not set(pids.values()) & set(fleet.pids.values())
        stats = parts.eventually(lambda: parts.worker_stats(fleet.broker_url), "the worker")
        assert [name.partition("@")[0] for name in stats] == ["worker-1"]
        fleet.check()


def test_fleet_whose_server_keeps_ending_is_told(tmp_path: Path, temporary: Path) -> None:
    """A server that exits again and again is given up: exit status 1, its last words, and nothing left."""
    root = tmp_path / "store"
    root.mkdir()
    with watched(tmp_path, temporary, root, "fleet", "--store-root", root, "--workers", "1") as fleet:
        parts.eventually(lambda: "Ctrl-C ends it" in fleet.command.out, "the fleet")
        fleet.look()
        ended: list[int] = []
        for _ in range(4):
            # A server that does not yet handle SIGTERM would be ended by a signal.
            server = parts.eventually(lambda: _polite_server(fleet, ended), "a server that ends when it is asked to")
            assert server is not None
            fleet.family.append(server)
            ended.append(server.pid)
            server.terminate()
        told = fleet.command.wait()
        assert told.code == 1, told.err
        assert "has ended: redis" in told.err
        assert "it exited with status 0; its last words were" in told.err
        fleet.assert_nothing_left()


def _polite_server(fleet: Watched, known: list[int]) -> psutil.Process | None:
    """Return a fleet's server once it handles SIGTERM, if it is none of these."""
    for process in parts.still_running(fleet.command.descendants()):
        try:
            words = process.cmdline()
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except (psutil.Error, OSError):
            continue
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if process.pid not in known and any("redis" in word for word in words) and caught >> signal.SIGTERM - 1 & 1:
            return process
    return None


def _held(server: redis.Redis) -> str | None:
    try:
        return cast("str | None", server.get("imagefleet.test"))
    except redis.ConnectionError:
        return None


@pytest.mark.parametrize(
    ("setting", "value"),
    [("ALLOW_NETWORKS", "not/a/network"), ("CA_BUNDLE", "/no/such/file.pem"), ("PREFETCH", "many")],
)
def test_nothing_is_left_when_a_worker_does_not_come_up(
    tmp_path: Path, temporary: Path, demo_url: str, setting: str, value: str
) -> None:
    """A setting that workers can't use is seen at the start: exit status 1 or 2, the setting named, nothing left."""
    out = tmp_path / "out"
    source = tmp_path / "list.txt"
    source.write_text(f"{demo_url}/images/1.jpg\n")
    env = {"TMPDIR": str(temporary), f"IMAGEFLEET_{setting}": value}
    argv = parts.command(["run", source, "--out", out, "--workers", "1", "--json"])
    with parts.started("run", argv, tmp_path, env) as command:
        try:
            ended = command.wait(15)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the run goes on for ever with workers that can fetch nothing: {command.err}")
        assert ended.code in (1, 2), ended.err
        _, why, todo = parts.error_parts(ended)
        assert value in why or setting in why
        assert "--debug" not in todo
        assert parts.missing_or_empty(temporary)
        assert parts.image_files(out) == set()


def test_nothing_is_left_when_the_broker_is_no_redis(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """An address at which something else answers ends the run at once, with three parts that say so."""
    url = demo_url.replace("http://", "redis://") + "/0"
    ended = parts.producer(
        *("run", "-", "--out", tmp_path / "out", "--broker", url),
        env={"TMPDIR": str(temporary)},
        stdin=f"{demo_url}/images/1.jpg".encode(),
    )
    assert ended.code == 1
    what, _, todo = parts.error_parts(ended)
    assert url.removeprefix("redis://") in what
    assert "--debug" not in todo
    assert parts.missing_or_empty(temporary)
    assert parts.missing_or_empty(tmp_path / "out/.tmp")


def test_kept_fleet_serves_runs_and_ends(tmp_path: Path, temporary: Path, demo_url: str) -> None:
    """`producer fleet` stays up for run after run, and ends on Ctrl-C with exit status 0 and nothing left."""
    root = tmp_path / "store"
    root.mkdir()
    with watched(tmp_path, temporary, root, "fleet", "--store-root", root, "--workers", "1") as fleet:
        broker = parts.eventually(lambda: _word_after("--broker", fleet.command.out), "the broker's URL")
        fleet.look()
        for number in (1, 2):
            ended = parts.producer(
                *("run", "-", "--out", root / f"run-{number}", "--broker", broker, "--json"),
                stdin=f"{demo_url}/images/{number}.jpg".encode(),
            )
            assert ended.json()["success"] == 1
            assert parts.missing_or_empty(root / f"run-{number}/.tmp")
        os.killpg(fleet.command.process.pid, signal.SIGINT)
        assert re.search(r"\bimages?\b", fleet.assert_told(0).err) is None
        fleet.assert_nothing_left()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no say in where a process runs")
@pytest.mark.parametrize("more", [more for more in (-1, 0, 1) if len(cores()) + more])
def test_workers_stay_each_on_a_core(tmp_path: Path, temporary: Path, more: int) -> None:
    """As many workers as cores, or more, are spread over them and stay; fewer may use what there is."""
    allowed = cores()
    workers = len(allowed) + more
    root = tmp_path / "store"
    root.mkdir()
    with watched(tmp_path, temporary, root, "fleet", "--store-root", root, "--workers", str(workers)) as fleet:
        parts.eventually(lambda: _word_after("--broker", fleet.command.out), "the broker's URL")
        fleet.look()
        places = [_cores_of(process) for process in fleet.named("@%h")]
        everywhere = {tuple(allowed)}
        spread = [{(allowed[worker % len(allowed)],)} for worker in range(workers)]
        assert sorted(places, key=str) == sorted([everywhere] * workers if more < 0 else spread, key=str)
        os.killpg(fleet.command.process.pid, signal.SIGINT)
        fleet.assert_told(0)


def _cores_of(process: psutil.Process) -> set[tuple[int, ...]]:
    """Return where a process's threads may run."""
    return {tuple(sorted(os.sched_getaffinity(thread.id))) for thread in process.threads()}


def _word_after(word: str, text: str) -> str:
    words = text.split()
    return words[words.index(word) + 1] if word in words[:-1] else ""
