"""Let all collect tasks of a packed shard use the same Outcomes.

If Redis loses results, two collect tasks of a shard can run at the same time, with different Outcomes. Each would write
another packed file under the same name, and the packed file of one could stay with the manifest of the other. So the
first task saves its Outcomes in the shard's folder, and each other task reads them. Then all of them write the same
bytes. The file is removed with the packed images, when the shard has its manifest.

A later command does not read the Outcomes of an earlier command, because it retries images that could not be saved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tasks.model import Outcome, RunOptions, shard_name
from tasks.storage.store import Store

#: The names of these files in a shard's folder, as a regular expression.
FILE_PATTERN = r"\.outcomes-[0-9]+-[0-9]+\.json"


def name(shard: int, run: RunOptions) -> str:
    """Return the name of the file with a shard's agreed Outcomes."""
    return f"{shard_name(shard)}/.outcomes-{run.revision}-{run.epoch}.json"


def agree(shard: int, outcomes: Sequence[Outcome], run: RunOptions, store: Store) -> Sequence[Outcome]:
    """Return the Outcomes of the first collect task of a shard: the given ones, if no other task was first.

    Args:
        shard: its number.
        outcomes: in the order of the shard's plan.
        run: the run's options.
        store: the run's folder.

    Raises:
        StorageError: the Outcomes can't be saved or read. Another task may have removed them after it wrote the
            manifest.
    """
    body = json.dumps([outcome.to_json() for outcome in outcomes]).encode()
    if store.create_durably(name(shard, run), body):
        return outcomes
    return [Outcome.from_json(outcome) for outcome in json.loads(store.read(name(shard, run)))]
