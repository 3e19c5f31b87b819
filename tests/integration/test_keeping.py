"""What a keeper starts ends with whoever wanted it, however that one ends."""

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

from producer.keeping import ROOT, Keeping
from tasks.errors import Fault
from tests.conditions import PATIENCE, wait_for

_SLEEP = ["sleep", "60"]
_OWNER = """
import sys, time
from producer.keeping import Keeping
with Keeping() as keeping:
    keeping.start("child", ["sleep", "60"], {}, 5.0)
    while not keeping.pids:
        time.sleep(0.001)
    print(keeping.pids["child"], keeping.folder, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process is there; one that has ended and was not waited for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    """A keeper that is up."""
    with Keeping() as keeping:
        yield keeping


def started(keeping: Keeping, name: str, argv: list[str], grace: float = 5.0, restart: bool = False) -> int:
    """Start a process, and return its id once it has one."""
    keeping.start(name, argv, {}, grace, restart=restart)
    wait_for(lambda: name in keeping.pids)
    return keeping.pids[name]


def told(keeping: Keeping) -> Fault:
    """The fault that a check tells, once it does."""
    faults: list[Fault] = []

    def tells() -> bool:
        try:
            keeping.check()
        except Fault as fault:
            faults.append(fault)
        return bool(faults)

    wait_for(tells)
    return faults[0]


def test_children_end_with_the_pipe(tmp_path: Path) -> None:
    """At the end all processes are gone, and so are the private folder and those that were named."""
    (tmp_path / "left").mkdir()
    with Keeping() as keeping:
        pids = [started(keeping, name, _SLEEP) for name in ("first", "second")]
        keeping.remove_at_end(tmp_path / "left", tmp_path / "never there")
        keeping.check()
        assert keeping.folder.stat().st_mode & 0o077 == 0
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert not keeping.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_children_end_with_a_killed_owner() -> None:
    """An owner that is killed, and can say nothing, leaves neither processes nor its folder."""
    with subprocess.Popen([sys.executable, "-c", _OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert alive(int(pid))
        owner.kill()
    wait_for(lambda: not alive(int(pid)))
    wait_for(lambda: not Path(folder).exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_children_end_with_a_polite_end_of_the_keeper(tmp_path: Path, number: signal.Signals) -> None:
    """A keeper that is asked to end ends what it keeps first."""
    argv = [sys.executable, "-P", str(ROOT / "producer" / "keeper.py")]
    command = {"start": "child", "argv": _SLEEP, "log": str(tmp_path / "log")}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.write(json.dumps(command) + "\n")
        keeper.stdin.flush()
        pid = json.loads(keeper.stdout.readline())["pid"]
        keeper.send_signal(number)
        assert keeper.wait(PATIENCE) == 0
        assert not alive(pid)


def test_child_that_will_not_end_is_killed(keeping: Keeping) -> None:
    """A process that ignores the request to end has its grace, and is then killed."""
    pid = started(keeping, "stubborn", ["sh", "-c", 'trap "" TERM; echo ready; exec sleep 60'], grace=0.05)
    wait_for(lambda: "ready" in keeping.last_words("stubborn"))
    keeping.__exit__(None, None, None)
    assert not alive(pid)


def test_exit_is_told_with_its_last_words(keeping: Keeping) -> None:
    """A process that ended by itself is told with its status and what it said last."""
    keeping.check()
    started(keeping, "worker-1", ["sh", "-c", "echo one; echo two; echo three; echo four >&2; exit 3"])
    fault = told(keeping)
    assert fault.what.endswith("has ended: worker-1")
    assert fault.why == "it exited with status 3; its last words were: two / three / four"


def test_kill_is_told(keeping: Keeping) -> None:
    """A process that was killed from outside is told with the signal."""
    os.kill(started(keeping, "redis", _SLEEP), signal.SIGKILL)
    assert re.search("it was ended by signal 9; its last words were: none", str(told(keeping)))


def test_killed_process_is_started_again(keeping: Keeping) -> None:
    """A process that may be restarted runs again after a kill, and again, with its new id; nothing is amiss."""
    pid = started(keeping, "worker-1", _SLEEP, restart=True)
    for times in (1, 2):
        os.kill(keeping.pids["worker-1"], signal.SIGKILL)
        wait_for(lambda times=times: keeping.restarts.get("worker-1") == times)  # type: ignore[misc]
        assert alive(keeping.pids["worker-1"])
        keeping.check()
    assert keeping.pids["worker-1"] != pid
    assert "worker-2" not in keeping.restarts


def test_process_is_started_again_as_it_was(keeping: Keeping) -> None:
    """A process that is started again has the same command, environment, folder, core and log."""
    core = min(os.sched_getaffinity(0))
    argv = ["sh", "-c", 'echo "$IMAGEFLEET_TEST $PWD"; exec sleep 60']
    keeping.start("worker-1", argv, {"IMAGEFLEET_TEST": "yes"}, 5.0, core, restart=True)
    wait_for(lambda: "worker-1" in keeping.pids and keeping.last_words("worker-1") == f"yes {ROOT}")
    os.kill(keeping.pids["worker-1"], signal.SIGKILL)
    wait_for(lambda: keeping.last_words("worker-1") == f"yes {ROOT} / yes {ROOT}")
    wait_for(lambda: keeping.restarts == {"worker-1": 1})
    assert os.sched_getaffinity(keeping.pids["worker-1"]) == {core}


def test_process_that_keeps_exiting_is_told(keeping: Keeping) -> None:
    """A process that exits each time it is started is given up after three more tries, and told with its last words."""
    started(keeping, "worker-1", ["sh", "-c", "echo no such setting; exit 2"], restart=True)
    fault = told(keeping)
    assert fault.what.endswith("has ended: worker-1")
    assert fault.why.startswith("it exited with status 2; its last words were: no such setting")
    assert keeping.restarts == {"worker-1": 3}


def test_exit_while_coming_up_is_told_at_once(keeping: Keeping) -> None:
    """Who waits for processes to come up is told of the first exit; a kill is no reason to give up."""
    started(keeping, "worker-1", _SLEEP, restart=True)
    os.kill(keeping.pids["worker-1"], signal.SIGKILL)
    wait_for(lambda: keeping.restarts == {"worker-1": 1})
    keeping.check(starting=True)
    argv = ["sh", "-c", 'test -e "$0" && exec sleep 60; touch "$0"; exit 2', str(keeping.folder / "been-here")]
    started(keeping, "worker-2", argv, restart=True)
    wait_for(lambda: keeping.restarts.get("worker-2") == 1)
    keeping.check()
    with pytest.raises(Fault, match="worker-2: it exited with status 2"):
        keeping.check(starting=True)


def test_started_again_ends_with_the_pipe() -> None:
    """At the end, what was started again is ended too, and so is what waits to be."""
    with Keeping() as keeping:
        for name in ("running", "waiting"):
            started(keeping, name, _SLEEP, restart=True)
        os.kill(keeping.pids["running"], signal.SIGKILL)
        wait_for(lambda: keeping.restarts == {"running": 1})
        os.kill(keeping.pids["waiting"], signal.SIGKILL)
    assert not any(alive(pid) for pid in keeping.pids.values())
    assert not keeping.folder.exists()


def test_program_that_is_missing_is_told(keeping: Keeping) -> None:
    """A process that can't be started is told with the reason."""
    keeping.start("redis", ["/no/such/program"], {}, 1.0)
    assert re.search(r"it could not be started \(.*No such file", str(told(keeping)))


def test_environment_and_folder_of_a_child(keeping: Keeping) -> None:
    """A process runs where the packages are, with the variables that it was given."""
    keeping.start("child", ["sh", "-c", 'echo "$IMAGEFLEET_TEST $PWD"; exec sleep 60'], {"IMAGEFLEET_TEST": "yes"}, 5.0)
    wait_for(lambda: keeping.last_words("child") == f"yes {ROOT}")
    assert keeping.log("child").parent == keeping.folder


def test_killed_keeper_is_told() -> None:
    """Where the keeper itself is killed, the next check and the next start say so."""
    keeping = Keeping()
    with keeping:
        keeping._process.kill()
        assert re.search("has ended: keeper", str(told(keeping)))
        with pytest.raises(Fault, match="keeps the local fleet has ended"):
            keeping.start("child", _SLEEP, {}, 1.0)
    assert not keeping.folder.exists()
