"""How often the keeper starts again what ends by itself."""

from __future__ import annotations

import signal

from producer.keeper import EXITED, KILLED, Patience


def test_pause_grows_to_a_second() -> None:
    """What ends again and again is started after longer and longer pauses, of a second at most."""
    patience = Patience()
    pauses = [patience.pause(-signal.SIGKILL, float(number)) for number in range(8)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_pause_is_short_again_after_a_quiet_minute() -> None:
    """What has not ended for a minute is started again at once, as for the first time."""
    patience = Patience()
    for number in range(8):
        patience.pause(-signal.SIGKILL, float(number))
    assert patience.pause(-signal.SIGKILL, 100.0) == 0.05


def test_killed_is_started_often() -> None:
    """One that is killed may be started a hundred times in ten minutes, and again when the first of them are past."""
    patience = Patience()
    pauses = [patience.pause(-signal.SIGKILL, float(number)) for number in range(KILLED.times + 1)]
    assert None not in pauses[:-1]
    assert pauses[-1] is None
    assert patience.pause(-signal.SIGKILL, KILLED.seconds + 1.5) is not None


def test_exited_is_started_three_times_a_minute() -> None:
    """One that exits by itself is given up at its fourth end within a minute, with whatever status."""
    patience = Patience()
    assert [patience.pause(code, 1.0) is None for code in (1, 0, 1, 1)] == [False, False, False, True]
    assert Patience().pause(0, 1.0 + EXITED.seconds) is not None


def test_kills_do_not_count_as_exits() -> None:
    """A worker that was killed a dozen times may exit by itself all the same."""
    patience = Patience()
    for number in range(12):
        patience.pause(-signal.SIGABRT, float(number))
    assert patience.pause(1, 13.0) is not None
