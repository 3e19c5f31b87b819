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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from producer.output import file_lock, lock
from producer.output.run_file import RunFile
from tasks.errors import CommandError, UsageError
from tasks.storage.local_store import LocalStore
from tests.unit.output.holders import running_holder

_HOLDER = """
import sys, time
from pathlib import Path
from producer.output import lock
with lock.hold(Path(sys.argv[1]), "redis://me:word@there:6379/0", "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a lock at once, instead of after a second."""
    monkeypatch.setattr(file_lock, "_RETRY_SECONDS", 0.1)


@contextmanager
def other_holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock. The process ends when its stdin ends, or when it is killed."""
    with running_holder(_HOLDER, str(out), "--broker=redis://me:word@there:6379/0", "--header", "A: word") as process:
        yield process


def test_second_producer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    """The error names the first producer's host, process and time, and a remedy."""
    with other_holder(tmp_path) as first:
        with pytest.raises(CommandError) as caught, lock.hold(LocalStore(tmp_path), None):
            pytest.fail("two hold it")
        error = caught.value
        assert error.exit_code == 2
        assert str(tmp_path) in error.what
        assert f"process {first.pid} on {socket.gethostname()}, since {time.strftime('%Y-')}" in error.why
        assert error.why.endswith(" (producer run)")
        assert f"producer cancel {tmp_path}" in error.hint


def test_lock_of_a_killed_producer_is_free(tmp_path: Path) -> None:
    """After SIGKILL the lock is free at once, though its file still names the dead process."""
    with other_holder(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert lock.current_holder(tmp_path) is None
    with lock.hold(tmp_path, None):
        assert (found := lock.current_holder(tmp_path)) is not None
        assert found.pid == os.getpid()


def test_lock_is_free_after_the_block(tmp_path: Path) -> None:
    """A released lock can be taken again, and its file stays."""
    for _ in range(2):
        with lock.hold(tmp_path, None):
            pass
        assert lock.current_holder(tmp_path) is None
        assert (tmp_path / ".lock").exists()


def test_lock_on_a_removed_file_is_not_used(tmp_path: Path) -> None:
    """If the lock's file is removed, a waiting process locks the new file, as other processes will."""
    path = tmp_path / ".lock"
    with path.open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)

        def leave() -> None:
            lock.discard(tmp_path)
            old.close()

        timer = threading.Timer(0.2, leave)
        timer.start()
        with lock.hold(tmp_path, None):
            timer.join()
            assert (found := lock.current_holder(tmp_path)) is not None
            assert found.pid == os.getpid()


def test_dead_holder_is_named_by_its_file(tmp_path: Path) -> None:
    """The file names a holder that was killed, but not a holder that released the lock."""
    assert lock.dead_holder(tmp_path) is None
    with other_holder(tmp_path) as first:
        first.kill()
        first.wait()
    assert (found := lock.dead_holder(tmp_path)) is not None
    assert found.pid == first.pid
    with lock.hold(tmp_path, None):
        pass
    assert lock.dead_holder(tmp_path) is None


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    """A failed command releases the lock."""
    with pytest.raises(KeyError), lock.hold(tmp_path, None):
        raise KeyError
    assert lock.current_holder(tmp_path) is None


@pytest.mark.usefixtures("_impatient")
def test_one_process_can_not_hold_the_lock_twice(tmp_path: Path) -> None:
    """The lock also keeps out a second holder in the same process."""
    with lock.hold(tmp_path, None), pytest.raises(CommandError, match="Another producer"), lock.hold(tmp_path, None):
        pytest.fail("held twice")


def test_waits_for_a_holder_that_is_ending(tmp_path: Path) -> None:
    """If the lock becomes free within a moment, it is acquired."""
    with other_holder(tmp_path) as first:
        assert first.stdin is not None
        first.stdin.close()
        with lock.hold(tmp_path, None):
            pass


def test_checking_creates_no_file(tmp_path: Path) -> None:
    """A check for another producer does not create the lock's file."""
    lock.check_unlocked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path, None), pytest.raises(UsageError, match="Another producer"):
        lock.check_unlocked(tmp_path)


def test_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A child process that outlives the holder does not hold the lock."""
    with lock.hold(tmp_path, None):
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert lock.current_holder(tmp_path) is None
    finally:
        child.kill()
        child.wait()


def test_holder_is_named_without_secrets(tmp_path: Path) -> None:
    """The lock's file has the host, process, time, command name and broker, without secrets."""
    assert lock.current_holder(tmp_path) is None
    with other_holder(tmp_path) as first:
        found = lock.current_holder(LocalStore(tmp_path))
        assert found is not None
        assert (found.host, found.pid, found.broker) == (socket.gethostname(), first.pid, "redis://***@there:6379/0")
        assert found.since == pytest.approx(time.time(), abs=60)
        assert found.command == "run"
        text = (tmp_path / ".lock").read_text()
        assert "word" not in text
        assert json.loads(text)["pid"] == first.pid
        assert (tmp_path / ".lock").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "here"}', '{"host": 1, "pid": "x"}'])
def test_holder_without_a_valid_file(tmp_path: Path, text: str) -> None:
    """A locked file counts as held even if its text is empty or incomplete."""
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        assert (found := lock.current_holder(tmp_path)) is not None
        assert found.pid == 0
        with pytest.raises(CommandError, match="has not described itself yet"), lock.hold(tmp_path, None):
            pytest.fail("two hold it")


def test_asking_for_the_holder_does_not_block(tmp_path: Path) -> None:
    """Repeated checks for the lock's holder do not prevent others from taking the lock."""
    script = """
import sys
from pathlib import Path
from producer.output import lock
print("held", flush=True)
while True:
    lock.current_holder(Path(sys.argv[1]))
"""
    with running_holder(script, str(tmp_path)) as asking:
        for _ in range(50):
            with lock.hold(tmp_path, None):
                pass
        assert asking.poll() is None


def test_missing_folder(tmp_path: Path) -> None:
    """A missing folder has no holder, and can't be locked."""
    assert lock.current_holder(tmp_path / "none") is None
    with pytest.raises(UsageError, match="can't be locked"), lock.hold(tmp_path / "none", None):
        pytest.fail("held")


def test_lock_does_not_count_as_a_run(tmp_path: Path) -> None:
    """A folder that holds only a lock can be used for a run."""
    with lock.hold(tmp_path, None):
        RunFile.check_no_run(LocalStore(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """If the file system has no locks, a warning is logged and the command continues. No holder is found."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), lock.hold(tmp_path, None):
        assert lock.current_holder(tmp_path) is None
    assert len(caplog.records) == 1
    assert "does not support locks" in caplog.text
