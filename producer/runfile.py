"""``run.json``: a run's own record, beside its output.

It says what the run is (id, Source, options), how far its plan is (``open`` while the Source is still being read,
``complete`` after), how the run stands, and at the end its totals. It is replaced whole, by rename.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from tasks.errors import UsageFault
from tasks.model import FetchOptions
from tasks.storage import Store

NAME = "run.json"
#: What a run writes at the top of its folder; a stale manifest would pass for one of the new run's.
_OF_A_RUN = re.compile(r"run\.json|\.plan|\d{5,}(\.parquet|_stats\.json)?")
_VERSION = 1


class State(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class PlanState(StrEnum):
    """Whether the Source has been read to its end."""

    OPEN = "open"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is done, frozen when it begins: how images are fetched, cut into shards, and kept in flight."""

    fetch: FetchOptions = field(default_factory=FetchOptions)
    shard_size: int = 1000
    window: int = 8


@dataclass(frozen=True, slots=True)
class RunFile:
    """What ``run.json`` says; times in seconds since the epoch."""

    id: str
    source: str
    out: str
    options: Options
    plan: PlanState = PlanState.OPEN
    planned_rows: int = 0
    planned_shards: int = 0
    state: State = State.RUNNING
    started_at: float = field(default_factory=time.time)
    finished_at: float | None = None
    totals: dict[str, Any] | None = None

    def create(self, store: Store) -> None:
        """Write it where no run is yet.

        Raises:
            UsageFault: the folder holds a run.
            StorageFailed: it can't be written.
        """
        self.refuse_another(store)
        if not store.create_durably(NAME, self._encoded()):
            self.refuse_another(store)

    @staticmethod
    def refuse_another(store: Store) -> None:
        """Make sure that no run is in a folder, nor anything that would count as a run's.

        Raises:
            UsageFault: there is one, or what is left of one.
            StorageFailed: the folder can't be listed.
        """
        found = next((name for name in store.entries() if _OF_A_RUN.fullmatch(name) and store.holds_files(name)), None)
        if found is not None:
            raise UsageFault(
                f"{store.root} already holds a run, or what is left of one",
                f"{found} is there, and a run's files are never mixed with another's",
                "Choose another --out, or remove that folder.",
            )

    def save(self, store: Store, **changes: Any) -> RunFile:
        """Write it with changes, and return the changed record.

        Raises:
            StorageFailed: it can't be written; the old one still stands.
        """
        changed = replace(self, **changes)
        store.replace(NAME, changed._encoded())
        return changed

    def _encoded(self) -> bytes:
        return (json.dumps({"version": _VERSION, **asdict(self)}, indent=2) + "\n").encode()


def new_id() -> str:
    """Return an id for a run: its time to the second, so that ids sort, and six random digits."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
