"""The supervisor's processes end with their owner, however the owner ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.local_fleet.supervisor_client import ROOT, SupervisorClient
from tasks.errors import CommandError
from tests.waiting import PATIENCE, wait_for

_SLEEP = ["sleep", "60"]
_OWNER = """
import sys, time
from producer.local_fleet.supervisor_client import SupervisorClient
with SupervisorClient() as keeping:
    keeping.start("child", ["sleep", "60"], {}, 5.0)
    while not keeping.pids:
        time.sleep(0.001)
    print(keeping.pids["child"], keeping.folder, flush=True)
    time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def keeping() -> Iterator[SupervisorClient]:
    """Give a running supervisor."""
    with SupervisorClient() as keeping:
        yield keeping


def started(keeping: SupervisorClient, name: str, argv: list[str], grace: float = 5.0, restart: bool = False) -> int:
    """Start a process, and return its id once it has one."""
    keeping.start(name, argv, {}, grace, restart=restart)
    wait_for(lambda: name in keeping.pids)
    return keeping.pids[name]


def check_error(keeping: SupervisorClient) -> CommandError:
    """Wait for a failed check and return its error."""
    faults: list[CommandError] = []

    def fails() -> bool:
        try:
            keeping.check()
        except CommandError as fault:
            faults.append(fault)
        return bool(faults)

    wait_for(fails)
    return faults[0]


def test_children_end_with_the_owner(tmp_path: Path) -> None:
    """At the end all processes are gone, with the private folder and the folders registered for removal."""
    (tmp_path / "left").mkdir()
    with SupervisorClient() as keeping:
        pids = [started(keeping, name, _SLEEP) for name in ("first", "second")]
        keeping.remove_at_end(tmp_path / "left", tmp_path / "missing")
        keeping.check()
        assert keeping.folder.stat().st_mode & 0o077 == 0
        assert all(is_running(pid) for pid in pids)
    assert not any(is_running(pid) for pid in pids)
    assert not keeping.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_children_end_with_a_killed_owner() -> None:
    """A killed owner leaves neither processes nor its folder behind."""
    with subprocess.Popen([sys.executable, "-c", _OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert is_running(int(pid))
        owner.kill()
    wait_for(lambda: not is_running(int(pid)))
    wait_for(lambda: not Path(folder).exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_children_end_with_the_keepers_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    """A supervisor that gets SIGTERM or SIGHUP first ends its processes."""
    argv = [sys.executable, "-P", str(ROOT / "producer" / "local_fleet" / "supervisor.py")]
    command = {"start": "child", "argv": _SLEEP, "log": str(tmp_path / "log")}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(json.dumps(command) + "\n")
        keeper.stdin.flush()
        pid = json.loads(keeper.stdout.readline())["pid"]
        keeper.send_signal(number)
        assert keeper.wait(PATIENCE) == 0
        assert not is_running(pid)


def test_kills_a_child_after_its_grace_period(keeping: SupervisorClient) -> None:
    """A process that ignores SIGTERM is killed after its grace period."""
    pid = started(keeping, "stubborn", ["sh", "-c", 'trap "" TERM; echo ready; exec sleep 60'], grace=0.05)
    wait_for(lambda: "ready" in keeping.log_tail("stubborn"))
    keeping.__exit__(None, None, None)
    assert not is_running(pid)


def test_reports_an_exit_with_the_end_of_its_log(keeping: SupervisorClient) -> None:
    """An exited process is reported with its status and the end of its output."""
    keeping.check()
    started(keeping, "worker-1", ["sh", "-c", "echo one; echo two; echo three; echo four >&2; exit 3"])
    fault = check_error(keeping)
    assert fault.what.endswith("has ended: worker-1")
    assert fault.why == "it exited with status 3; its last words were: two / three / four"


def test_reports_a_kill(keeping: SupervisorClient) -> None:
    """A process killed from outside is reported with the signal."""
    os.kill(started(keeping, "redis", _SLEEP), signal.SIGKILL)
    assert re.search("it was ended by signal 9; its last words were: none", str(check_error(keeping)))


def test_restarts_a_killed_process(keeping: SupervisorClient) -> None:
    """A restartable process runs again after each kill, with a new id, and no check fails."""
    pid = started(keeping, "worker-1", _SLEEP, restart=True)
    for times in (1, 2):
        os.kill(keeping.pids["worker-1"], signal.SIGKILL)
        wait_for(lambda times=times: keeping.restarts.get("worker-1") == times)  # type: ignore[misc]
        assert is_running(keeping.pids["worker-1"])
        keeping.check()
    assert keeping.pids["worker-1"] != pid
    assert "worker-2" not in keeping.restarts


def test_restarts_a_process_unchanged(keeping: SupervisorClient) -> None:
    """A restarted process has the same command, environment, folder, core and log."""
    core = min(os.sched_getaffinity(0))
    argv = ["sh", "-c", 'echo "$IMAGEFLEET_TEST $PWD"; exec sleep 60']
    keeping.start("worker-1", argv, {"IMAGEFLEET_TEST": "yes"}, 5.0, core, restart=True)
    wait_for(lambda: "worker-1" in keeping.pids and keeping.log_tail("worker-1") == f"yes {ROOT}")
    os.kill(keeping.pids["worker-1"], signal.SIGKILL)
    wait_for(lambda: keeping.log_tail("worker-1") == f"yes {ROOT} / yes {ROOT}")
    wait_for(lambda: keeping.restarts == {"worker-1": 1})
    assert os.sched_getaffinity(keeping.pids["worker-1"]) == {core}


def test_gives_up_a_process_that_keeps_exiting(keeping: SupervisorClient) -> None:
    """A process that exits at each start is given up after three restarts, and its last output is reported."""
    started(keeping, "worker-1", ["sh", "-c", "echo no such setting; exit 2"], restart=True)
    fault = check_error(keeping)
    assert fault.what.endswith("has ended: worker-1")
    assert fault.why.startswith("it exited with status 2; its last words were: no such setting")
    assert keeping.restarts == {"worker-1": 3}


def test_reports_an_exit_during_startup_at_once(keeping: SupervisorClient) -> None:
    """A check during startup reports the first exit; a killed process is no reason to give up."""
    started(keeping, "worker-1", _SLEEP, restart=True)
    os.kill(keeping.pids["worker-1"], signal.SIGKILL)
    wait_for(lambda: keeping.restarts == {"worker-1": 1})
    keeping.check(starting=True)
    argv = ["sh", "-c", 'test -e "$0" && exec sleep 60; touch "$0"; exit 2', str(keeping.folder / "second-start")]
    started(keeping, "worker-2", argv, restart=True)
    wait_for(lambda: keeping.restarts.get("worker-2") == 1)
    keeping.check()
    with pytest.raises(CommandError, match="worker-2: it exited with status 2"):
        keeping.check(starting=True)


def test_restarted_processes_end_with_the_owner() -> None:
    """At the end, restarted processes end too, and pending restarts do not happen."""
    with SupervisorClient() as keeping:
        for name in ("running", "waiting"):
            started(keeping, name, _SLEEP, restart=True)
        os.kill(keeping.pids["running"], signal.SIGKILL)
        wait_for(lambda: keeping.restarts == {"running": 1})
        os.kill(keeping.pids["waiting"], signal.SIGKILL)
    assert not any(is_running(pid) for pid in keeping.pids.values())
    assert not keeping.folder.exists()


def test_reports_a_missing_program(keeping: SupervisorClient) -> None:
    """A failed start is reported with the reason."""
    keeping.start("redis", ["/no/such/program"], {}, 1.0)
    assert re.search(r"it could not be started \(.*No such file", str(check_error(keeping)))


def test_child_has_its_environment_and_folder(keeping: SupervisorClient) -> None:
    """A process runs in the folder of the packages, with its given variables."""
    keeping.start("child", ["sh", "-c", 'echo "$IMAGEFLEET_TEST $PWD"; exec sleep 60'], {"IMAGEFLEET_TEST": "yes"}, 5.0)
    wait_for(lambda: keeping.log_tail("child") == f"yes {ROOT}")
    assert keeping.log("child").parent == keeping.folder


def test_reports_a_killed_keeper() -> None:
    """If the supervisor itself is killed, the next check and the next start report it."""
    keeping = SupervisorClient()
    with keeping:
        keeping._process.kill()
        assert re.search("has ended: keeper", str(check_error(keeping)))
        with pytest.raises(CommandError, match="keeps the local fleet has ended"):
            keeping.start("child", _SLEEP, {}, 1.0)
    assert not keeping.folder.exists()
