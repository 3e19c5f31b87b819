"""Redis traffic is recorded, and can be replayed by several players at once."""

from __future__ import annotations

import pytest
import redis

from benchmarks.traffic import Tap, Turn, play


def test_records_and_replays_turns(redis_port: int) -> None:
    """Commands sent together are one turn, blocking reads are left out, and each player replays all turns each time."""
    turns: list[Turn] = []
    with Tap(redis_port, turns) as tap, redis.Redis("127.0.0.1", tap.port, db=9) as client:
        client.flushdb()
        turns.clear()
        with client.pipeline() as pipe:
            pipe.incrby("sum", 3).setrange("text", 0, "x" * 2_000_000).execute()
        client.blpop(["none"], timeout=0.01)
        assert client.incrby("sum", 4) == 7
    assert sum(turn.replies for turn in turns) == 5
    assert b"".join(turn.request for turn in turns).count(b"INCRBY") == 2
    played = play(turns, redis_port, players=2, times=3)
    assert played.work.calls["incrby"] == 2 * 3 * 2
    assert played.work.calls["setrange"] == 2 * 3
    assert played.work.bytes_in > 2 * 3 * 2_000_000
    assert 0 < played.work.main_thread <= played.seconds * 1.1
    with redis.Redis("127.0.0.1", redis_port, db=2) as second:
        assert second.get("sum") == b"7"


def test_reports_a_refused_replay(redis_port: int) -> None:
    """Replaying commands that Redis refuses raises an error, because their measurement would be worthless."""
    with pytest.raises(RuntimeError, match="could not go on"):
        play([Turn(1, b"INCRBY text x\r\n", 1)], redis_port, players=1, times=1)
