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
with SupervisorClient() as client:
    client.start("child", ["sleep", "60"], {}, 5.0)
    while not client.pids:
        time.sleep(0.001)
    print(client.pids["child"], client.folder, flush=True)
    time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def client() -> Iterator[SupervisorClient]:
    """Yield a running supervisor client."""
    with SupervisorClient() as client:
        yield client


def started(client: SupervisorClient, name: str, argv: list[str], grace: float = 5.0, restart: bool = False) -> int:
    """Start a process, wait until it has a process id, and return this id."""
    client.start(name, argv, {}, grace, restart=restart)
    wait_for(lambda: name in client.pids)
    return client.pids[name]


def check_error(client: SupervisorClient) -> CommandError:
    """Wait for a failed check and return its error."""
    errors: list[CommandError] = []

    def fails() -> bool:
        try:
            client.check()
        except CommandError as error:
            errors.append(error)
        return bool(errors)

    wait_for(fails)
    return errors[0]


def test_children_end_with_the_owner(tmp_path: Path) -> None:
    """At the end, all processes, the private folder, and the folders registered for removal are gone."""
    (tmp_path / "left").mkdir()
    with SupervisorClient() as client:
        pids = [started(client, name, _SLEEP) for name in ("first", "second")]
        client.remove_at_end(tmp_path / "left", tmp_path / "missing")
        client.check()
        assert client.folder.stat().st_mode & 0o077 == 0
        assert all(is_running(pid) for pid in pids)
    assert not any(is_running(pid) for pid in pids)
    assert not client.folder.exists()
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
def test_children_end_with_the_supervisors_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    """If a supervisor gets SIGTERM or SIGHUP, it ends its processes before it ends itself."""
    argv = [sys.executable, "-P", str(ROOT / "producer" / "local_fleet" / "supervisor.py")]
    command = {"start": "child", "argv": _SLEEP, "log": str(tmp_path / "log")}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        supervisor.stdin.write(json.dumps(command) + "\n")
        supervisor.stdin.flush()
        pid = json.loads(supervisor.stdout.readline())["pid"]
        supervisor.send_signal(number)
        assert supervisor.wait(PATIENCE) == 0
        assert not is_running(pid)


def test_kills_a_child_after_its_grace_period(client: SupervisorClient) -> None:
    """A process that ignores SIGTERM is killed after its grace period."""
    pid = started(client, "stubborn", ["sh", "-c", 'trap "" TERM; echo ready; exec sleep 60'], grace=0.05)
    wait_for(lambda: "ready" in client.log_tail("stubborn"))
    client.__exit__(None, None, None)
    assert not is_running(pid)


def test_reports_an_exit_with_the_end_of_its_log(client: SupervisorClient) -> None:
    """If a process exits, the supervisor reports the exit status and the end of the process's output."""
    client.check()
    started(client, "worker-1", ["sh", "-c", "echo one; echo two; echo three; echo four >&2; exit 3"])
    error = check_error(client)
    assert error.what.endswith("has ended: worker-1")
    assert error.why == "it exited with status 3; its last output: two / three / four"


def test_reports_a_kill(client: SupervisorClient) -> None:
    """If a process is killed from outside, the supervisor reports the signal."""
    os.kill(started(client, "redis", _SLEEP), signal.SIGKILL)
    assert re.search("it was ended by signal 9; its last output: none", str(check_error(client)))


def test_restarts_a_killed_process(client: SupervisorClient) -> None:
    """A restartable process runs again after each kill, with a new id, and no check fails."""
    pid = started(client, "worker-1", _SLEEP, restart=True)
    for times in (1, 2):
        os.kill(client.pids["worker-1"], signal.SIGKILL)
        wait_for(lambda times=times: client.restarts.get("worker-1") == times)  # type: ignore[misc]
        assert is_running(client.pids["worker-1"])
        client.check()
    assert client.pids["worker-1"] != pid
    assert "worker-2" not in client.restarts


def test_restarts_a_process_unchanged(client: SupervisorClient) -> None:
    """A restarted process has the same command, environment, folder, core and log."""
    core = min(os.sched_getaffinity(0))
    argv = ["sh", "-c", 'echo "$IMAGEFLEET_TEST $PWD"; exec sleep 60']
    client.start("worker-1", argv, {"IMAGEFLEET_TEST": "yes"}, 5.0, core, restart=True)
    wait_for(lambda: "worker-1" in client.pids and client.log_tail("worker-1") == f"yes {ROOT}")
    os.kill(client.pids["worker-1"], signal.SIGKILL)
    wait_for(lambda: client.log_tail("worker-1") == f"yes {ROOT} / yes {ROOT}")
    wait_for(lambda: client.restarts == {"worker-1": 1})
    assert os.sched_getaffinity(client.pids["worker-1"]) == {core}


def test_gives_up_a_process_that_keeps_exiting(client: SupervisorClient) -> None:
    """If a process exits at each start, the supervisor gives up after three restarts and reports the last output."""
    started(client, "worker-1", ["sh", "-c", "echo no such setting; exit 2"], restart=True)
    error = check_error(client)
    assert error.what.endswith("has ended: worker-1")
    assert error.why.startswith("it exited with status 2; its last output: no such setting")
    assert client.restarts == {"worker-1": 3}


def test_reports_an_exit_during_startup_at_once(client: SupervisorClient) -> None:
    """A check during startup reports the first process that exits. It does not give up if a process is killed."""
    started(client, "worker-1", _SLEEP, restart=True)
    os.kill(client.pids["worker-1"], signal.SIGKILL)
    wait_for(lambda: client.restarts == {"worker-1": 1})
    client.check(starting=True)
    argv = ["sh", "-c", 'test -e "$0" && exec sleep 60; touch "$0"; exit 2', str(client.folder / "second-start")]
    started(client, "worker-2", argv, restart=True)
    wait_for(lambda: client.restarts.get("worker-2") == 1)
    client.check()
    with pytest.raises(CommandError, match="worker-2: it exited with status 2"):
        client.check(starting=True)


def test_restarted_processes_end_with_the_owner() -> None:
    """When the supervisor ends, the restarted processes end too, and pending restarts are dropped."""
    with SupervisorClient() as client:
        for name in ("running", "waiting"):
            started(client, name, _SLEEP, restart=True)
        os.kill(client.pids["running"], signal.SIGKILL)
        wait_for(lambda: client.restarts == {"running": 1})
        os.kill(client.pids["waiting"], signal.SIGKILL)
    assert not any(is_running(pid) for pid in client.pids.values())
    assert not client.folder.exists()


def test_reports_a_missing_program(client: SupervisorClient) -> None:
    """A failed start is reported with the reason."""
    client.start("redis", ["/no/such/program"], {}, 1.0)
    assert re.search(r"it could not be started \(.*No such file", str(check_error(client)))


def test_child_has_its_environment_and_folder(client: SupervisorClient) -> None:
    """A process runs in the folder of the packages, with the environment variables given for it."""
    client.start("child", ["sh", "-c", 'echo "$IMAGEFLEET_TEST $PWD"; exec sleep 60'], {"IMAGEFLEET_TEST": "yes"}, 5.0)
    wait_for(lambda: client.log_tail("child") == f"yes {ROOT}")
    assert client.log("child").parent == client.folder


def test_reports_a_killed_supervisor() -> None:
    """If the supervisor itself is killed, the next check and the next start report it."""
    client = SupervisorClient()
    with client:
        client._process.kill()
        assert re.search("has ended: supervisor", str(check_error(client)))
        with pytest.raises(CommandError, match="supervisor of the local fleet has ended"):
            client.start("child", _SLEEP, {}, 1.0)
    assert not client.folder.exists()
