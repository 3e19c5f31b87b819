"""Make the folder of a run without running a producer or workers.

The folder is as the producer and the workers of the run would leave it.
"""

from __future__ import annotations

from pathlib import Path

from producer.output.run_file import PlanState, RunConfig, RunFile, State
from producer.sources import url_list
from tasks.collect import collect
from tasks.model import Outcome, Reason, RunOptions, Status, image_key
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef

RUN_ID = "20260101-000000-abcdef"
SIZE = 3


def make_run(
    source: Path,
    store: LocalStore,
    rows: int,
    done: int,
    state: State,
    plan_state: PlanState,
    row: str = "http://a.example/{}\n",
    encoding: str = "utf-8",
) -> RunFile:
    """Make a run of a list with this many rows, in shards of three.

    The first ``done`` shards have manifests. The other shards are only planned. Every image has failed with a timeout.
    The rows of the list are made from ``row`` and written in this encoding.
    """
    source.write_bytes("".join(row.format(index) for index in range(rows)).encode(encoding))
    shards = -(-rows // SIZE)
    record = RunFile(
        RUN_ID,
        str(source),
        str(store.root),
        RunConfig(shard_size=SIZE),
        url_list.fingerprint(str(source)),
        plan_state,
        *((rows, shards) if plan_state is PlanState.COMPLETE else (0, 0)),
        state=state,
        finished_at=1.0e9,
        totals={"total": rows, "failed": rows, "reasons": {"timeout": rows}} if state is State.COMPLETE else None,
    )
    record.create(store)
    requests = list(url_list.read(str(source)))
    options = RunOptions(str(store.root), SIZE, run_id=RUN_ID)
    for shard in range(shards):
        chosen = requests[shard * SIZE : (shard + 1) * SIZE]
        store.create_durably(plan.name(shard), plan.encode(chosen, ShardRef(RUN_ID, shard)))
        if shard < done:
            keys = [image_key(shard * SIZE + place, SIZE) for place in range(len(chosen))]
            outcomes = [Outcome(key, Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, finished_at=101.0) for key in keys]
            collect(shard, outcomes, options, store)
    return record
