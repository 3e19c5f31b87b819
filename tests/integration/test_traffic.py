"""Redis traffic is recorded, and can be replayed by several clients at once."""

from __future__ import annotations

import pytest
import redis

from benchmarks.traffic import Batch, Recorder, replay


def test_records_and_replays_batches(redis_port: int) -> None:
    """Commands that are sent together form one batch. Blocking reads are left out. Each client replays all batches."""
    batches: list[Batch] = []
    with Recorder(redis_port, batches) as recorder, redis.Redis("127.0.0.1", recorder.port, db=9) as client:
        client.flushdb()
        batches.clear()
        with client.pipeline() as pipe:
            pipe.incrby("sum", 3).setrange("text", 0, "x" * 2_000_000).execute()
        client.blpop(["none"], timeout=0.01)
        assert client.incrby("sum", 4) == 7
    assert sum(batch.replies for batch in batches) == 5
    assert b"".join(batch.request for batch in batches).count(b"INCRBY") == 2
    replayed = replay(batches, redis_port, clients=2, times=3)
    assert replayed.work.calls["incrby"] == 2 * 3 * 2
    assert replayed.work.calls["setrange"] == 2 * 3
    assert replayed.work.bytes_in > 2 * 3 * 2_000_000
    assert 0 < replayed.work.main_thread <= replayed.seconds * 1.1
    with redis.Redis("127.0.0.1", redis_port, db=2) as second:
        assert second.get("sum") == b"7"


def test_reports_a_refused_replay(redis_port: int) -> None:
    """If Redis refuses replayed commands, the replay raises an error, because the measurement would be worthless."""
    with pytest.raises(RuntimeError, match="a client failed"):
        replay([Batch(1, b"INCRBY text x\r\n", 1)], redis_port, clients=1, times=1)
