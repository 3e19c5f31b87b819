"""The lock of an output folder, between real processes."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from producer import lock
from producer.keeping import ROOT
from producer.runfile import RunFile
from tasks.errors import Fault, UsageFault
from tasks.storage import Store

_HOLDER = """
import sys, time
from pathlib import Path
from producer import lock
with lock.held(Path(sys.argv[1]), "redis://me:word@there:6379/0", "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input ends, or it is killed."""
    argv = [sys.executable, "-c", _HOLDER, str(out), "--broker=redis://me:word@there:6379/0", "--header", "A: word"]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_second_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """Who comes second is told the first one's host, process and time, and what to do."""
    with another(tmp_path) as first:
        with pytest.raises(Fault) as caught, lock.held(Store(tmp_path), None):
            pytest.fail("two hold it")
        fault = caught.value
        assert fault.exit_code == 2
        assert str(tmp_path) in fault.what
        assert f"process {first.pid} on {socket.gethostname()}, since {time.strftime('%Y-')}" in fault.why
        assert fault.why.endswith(" (producer run)")
        assert f"producer cancel {tmp_path}" in fault.todo


def test_killed_holder_keeps_nobody_out(tmp_path: Path) -> None:
    """After a SIGKILL of the holder the lock is free at once, though its file still names the dead."""
    with another(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert lock.holder(tmp_path) is None
    with lock.held(tmp_path, None):
        assert (found := lock.holder(tmp_path)) is not None
        assert found.pid == os.getpid()


def test_lock_is_free_after_the_block(tmp_path: Path) -> None:
    """A lock that was given up can be taken again, and its file stays."""
    for _ in range(2):
        with lock.held(tmp_path, None):
            pass
        assert lock.holder(tmp_path) is None
        assert (tmp_path / ".lock").exists()


def test_lock_whose_file_was_removed_is_not_had(tmp_path: Path) -> None:
    """Who waits for a holder that leaves the folder gets a lock that others find, and not the file that is gone."""
    path = tmp_path / ".lock"
    with path.open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)

        def leave() -> None:
            lock.discard(tmp_path)
            old.close()

        timer = threading.Timer(0.2, leave)
        timer.start()
        with lock.held(tmp_path, None):
            timer.join()
            assert (found := lock.holder(tmp_path)) is not None
            assert found.pid == os.getpid()


def test_who_died_with_the_lock(tmp_path: Path) -> None:
    """A holder that was killed is still named by its file; one that gave it up is not."""
    assert lock.left_by(tmp_path) is None
    with another(tmp_path) as first:
        first.kill()
        first.wait()
    assert (found := lock.left_by(tmp_path)) is not None
    assert found.pid == first.pid
    with lock.held(tmp_path, None):
        pass
    assert lock.left_by(tmp_path) is None


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    """A command that fails gives the lock up."""
    with pytest.raises(KeyError), lock.held(tmp_path, None):
        raise KeyError
    assert lock.holder(tmp_path) is None


def test_one_process_can_not_hold_it_twice(tmp_path: Path) -> None:
    """The lock counts within one process, too."""
    with lock.held(tmp_path, None), pytest.raises(Fault, match="Another producer"), lock.held(tmp_path, None):
        pytest.fail("held twice")


def test_holder_waits_for_one_that_is_ending(tmp_path: Path) -> None:
    """A lock that becomes free within a moment is had."""
    with another(tmp_path) as first:
        assert first.stdin is not None
        first.stdin.close()
        with lock.held(tmp_path, None):
            pass


def test_refusing_takes_nothing(tmp_path: Path) -> None:
    """Who only makes sure that nobody holds a lock makes no file of it."""
    lock.refuse_another(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with lock.held(tmp_path, None), pytest.raises(UsageFault, match="Another producer"):
        lock.refuse_another(tmp_path)


def test_child_of_a_holder_does_not_keep_it(tmp_path: Path) -> None:
    """What a holder has started, and what outlives it, does not hold the lock."""
    with lock.held(tmp_path, None):
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert lock.holder(tmp_path) is None
    finally:
        child.kill()
        child.wait()


def test_holder_says_who_it_is_without_secrets(tmp_path: Path) -> None:
    """What stands in the file is for all who may read it: host, process, time, the command's name and the broker."""
    assert lock.holder(tmp_path) is None
    with another(tmp_path) as first:
        found = lock.holder(Store(tmp_path))
        assert found is not None
        assert (found.host, found.pid, found.broker) == (socket.gethostname(), first.pid, "redis://***@there:6379/0")
        assert found.since == pytest.approx(time.time(), abs=60)
        assert found.command == "run"
        text = (tmp_path / ".lock").read_text()
        assert "word" not in text
        assert json.loads(text)["pid"] == first.pid
        assert (tmp_path / ".lock").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "here"}', '{"host": 1, "pid": "x"}'])
def test_holder_that_has_not_said_who_it_is(tmp_path: Path, text: str) -> None:
    """A file that says nothing, or not all, is a holder's all the same if it is locked."""
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        assert (found := lock.holder(tmp_path)) is not None
        assert found.pid == 0
        with pytest.raises(Fault, match="has not said who it is"), lock.held(tmp_path, None):
            pytest.fail("two hold it")


def test_asking_does_not_hinder(tmp_path: Path) -> None:
    """Who asks for the holder again and again keeps nobody from becoming one."""
    script = (
        "import sys; from pathlib import Path; from producer import lock\nwhile True: lock.holder(Path(sys.argv[1]))"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT) as asking:
        try:
            for _ in range(50):
                with lock.held(tmp_path, None):
                    pass
            assert asking.poll() is None
        finally:
            asking.kill()


def test_folder_that_is_missing(tmp_path: Path) -> None:
    """A folder that is not there has no holder, and can't be locked."""
    assert lock.holder(tmp_path / "none") is None
    with pytest.raises(UsageFault, match="can't be locked"), lock.held(tmp_path / "none", None):
        pytest.fail("held")


def test_lock_does_not_pass_for_a_run(tmp_path: Path) -> None:
    """A folder with nothing but a lock is free for a run."""
    with lock.held(tmp_path, None):
        RunFile.refuse_another(Store(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Where there are no locks a warning says so, and the command goes on; nobody is found to hold one."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), lock.held(tmp_path, None):
        assert lock.holder(tmp_path) is None
    assert len(caplog.records) == 1
    assert "knows no locks" in caplog.text
