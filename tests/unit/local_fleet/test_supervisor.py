"""The supervisor restarts a process after an unexpected end, up to a limit."""

from __future__ import annotations

import signal

from producer.local_fleet.supervisor import EXITED, KILLED, RestartPolicy


def test_restart_delay_grows_to_one_second() -> None:
    """A process that keeps ending is restarted after longer and longer delays, up to one second."""
    policy = RestartPolicy()
    delays = [policy.next_delay(-signal.SIGKILL, float(number)) for number in range(8)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_restart_delay_is_short_again_after_a_quiet_minute() -> None:
    """If a process has not exited for a minute, its next restart is immediate again."""
    policy = RestartPolicy()
    for number in range(8):
        policy.next_delay(-signal.SIGKILL, float(number))
    assert policy.next_delay(-signal.SIGKILL, 100.0) == 0.05


def test_killed_process_is_restarted_often() -> None:
    """A killed process may be restarted 100 times in ten minutes.

    Restarts more than ten minutes ago no longer count.
    """
    policy = RestartPolicy()
    delays = [policy.next_delay(-signal.SIGKILL, float(number)) for number in range(KILLED.times + 1)]
    assert None not in delays[:-1]
    assert delays[-1] is None
    assert policy.next_delay(-signal.SIGKILL, KILLED.seconds + 1.5) is not None


def test_exited_process_is_restarted_three_times_a_minute() -> None:
    """If a process exits by itself, with any status, it is restarted until its fourth exit within a minute."""
    policy = RestartPolicy()
    assert [policy.next_delay(code, 1.0) is None for code in (1, 0, 1, 1)] == [False, False, False, True]
    assert RestartPolicy().next_delay(0, 1.0 + EXITED.seconds) is not None


def test_kills_do_not_count_as_exits() -> None:
    """After a dozen kills, a worker that exits by itself is still restarted."""
    policy = RestartPolicy()
    for number in range(12):
        policy.next_delay(-signal.SIGABRT, float(number))
    assert policy.next_delay(1, 13.0) is not None
