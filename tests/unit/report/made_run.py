"""Make the folder of a complete run with images, failures and hostile texts, without a fleet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from producer.output.run_file import PlanState, RunConfig, RunFile, State
from tasks.model import ImageRequest, Outcome, Reason, Status, image_key
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import image

RUN_ID = "20260101-000000-abcdef"
SHARD_SIZE = 10
#: Texts that a page must show as they are.
HOSTILE_URL = "http://a.example/<script>alert(1)</script>\x1b[31m\u202e'\"&sig=topsecret"
HOSTILE_MESSAGE = "</td></table><img src=x onerror=alert(1)>\x07"
#: When the run started, in seconds since the epoch.
START = 1_767_225_600.0


def outcome(index: int, failed: Reason | None = None, **values: object) -> Outcome:
    """Return an image's Outcome: it took 0.2 s and ended 0.1 s after the image before it."""
    key = image_key(index, SHARD_SIZE)
    facts: dict[str, object] = {
        "finished_at": START + 0.2 + index / 10,
        "fetch_seconds": 0.2,
        "attempts": 1,
        "worker": f"host:{index % 2}",
        "phases": (5_000, 1_000, 150_000, 20_000, 2_000, 1_000),
    }
    if failed is None:
        facts |= {"path": f"{key[:5]}/{key}.png", "bytes": len(image()), "width": 4, "height": 3, "format": "png"}
    else:
        facts |= {"reason": failed, "error_message": "no answer"}
    status = Status.SUCCESS if failed is None else failed.status
    return Outcome(key, status, **{**facts, **values})  # type: ignore[arg-type]


def make_run(folder: Path, outcomes: list[Outcome], urls: dict[int, str] | None = None) -> LocalStore:
    """Make the folder of a complete run with these Outcomes, and with a file for each saved image.

    The URL of an image is ``http://a.example/INDEX``, unless another one is given.
    """
    folder.mkdir()
    store = LocalStore(folder)
    shards = -(-len(outcomes) // SHARD_SIZE)
    reasons = [str(each.reason) for each in outcomes if each.reason is not None]
    totals = {
        "wall_seconds": 0.2 + len(outcomes) / 10,
        "fetched": len(outcomes),
        "workers": 2,
        "concurrency": 8,
        "reasons": {reason: reasons.count(reason) for reason in reasons},
    }
    record = RunFile(RUN_ID, "list.txt", str(folder), RunConfig(shard_size=SHARD_SIZE), started_at=START)
    record = replace(record, plan=PlanState.COMPLETE, planned_rows=len(outcomes), planned_shards=shards)
    replace(record, state=State.COMPLETE, finished_at=START + 0.2 + len(outcomes) / 10, totals=totals).create(store)
    for shard in range(shards):
        places = range(shard * SHARD_SIZE, min((shard + 1) * SHARD_SIZE, len(outcomes)))
        requests = [ImageRequest(place, (urls or {}).get(place, f"http://a.example/{place}")) for place in places]
        ref = ShardRef(RUN_ID, shard)
        table = plan.decode(plan.encode(requests, ref))
        chosen = [outcomes[place] for place in places]
        store.create_durably(manifest.name(shard), manifest.encode(table, chosen, ref))
        for each in chosen:
            if each.path is not None:
                store.create(each.path, image())
    return store
