"""``run.json``: a run's own record, beside its output.

It says what the run is (id, Source, options), how far its plan is (``open`` while the Source is still being read,
``complete`` after), how the run stands, which pass it is at, and at the end its totals. It is replaced whole, by
rename, and holds a checksum of all that it says: one that was changed by hand, or cut, is told and never acted upon.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from config.settings import settings
from tasks.errors import CommandError, StorageError, UsageError
from tasks.model import FetchOptions
from tasks.redaction import redacted
from tasks.storage.store import Store

NAME = "run.json"
#: What a run writes at the top of its folder; a stale manifest would pass for one of the new run's.
_RUN_FILES = re.compile(r"run\.json|\.plan|\d{5,}(\.parquet|_stats\.json)?")
_VERSION = 3
#: What `redacted` puts in a secret's place.
_MASK = "***"


class State(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    FAILED = "failed"


class PlanState(StrEnum):
    """Whether the Source has been read to its end."""

    OPEN = "open"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How a run is done, frozen when it begins: how images are fetched, cut into shards, and kept in flight."""

    fetch: FetchOptions = field(default_factory=FetchOptions)
    shard_size: int = 1000
    window: int = 8
    #: The folder of the previous run that this one refreshes, if it does.
    previous_run: str | None = None


@dataclass(frozen=True, slots=True)
class RunFile:
    """What ``run.json`` says; times in seconds since the epoch."""

    id: str
    source: str
    out: str
    options: RunConfig
    #: Tells the Source from another of the same name; None for one that can't be read again.
    fingerprint: str | None = None
    plan: PlanState = PlanState.OPEN
    planned_rows: int = 0
    planned_shards: int = 0
    state: State = State.RUNNING
    #: The pass that the run is at: 0, and 1… for each retry.
    revision: int = 0
    #: The command that is at it, or was last: 0 for the one that began the run, 1… for each that has gone on with it.
    epoch: int = 0
    #: The URL of the broker that this command uses or the last one used, redacted; None for a local fleet.
    broker: str | None = None
    #: The reasons of failures that this pass tries again.
    retried: tuple[str, ...] = ()
    started_at: float = field(default_factory=time.time)
    finished_at: float | None = None
    totals: dict[str, Any] | None = None

    @classmethod
    def load(cls, store: Store) -> Self:
        """Read it.

        Raises:
            UsageError: there is none, and so no run.
            CommandError: it is not what was written.
        """
        cls.require(store)
        try:
            return cls._decode(store.read(NAME))
        except (StorageError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CommandError(
                f"{store.path(NAME)} can't be trusted",
                f"it is not what was written there ({error or type(error).__name__}); nothing was changed",
                "Images and manifests are not touched by this, and can be used as they are. To go on, put a whole copy "
                "of it back; without one, run the list into another folder: `producer run SOURCE --out ANOTHER`.",
            ) from error

    @staticmethod
    def require(store: Store) -> None:
        """Make sure that a folder holds a run.

        Raises:
            UsageError: it holds none.
        """
        if not store.exists(NAME):
            raise UsageError(
                f"{store.root} holds no run",
                f"there is no {NAME} in it",
                "Give the folder that --out named when the run was begun.",
            )

    def create(self, store: Store) -> None:
        """Write it where no run is yet.

        Raises:
            UsageError: the folder holds a run.
            StorageError: it can't be written.
        """
        self.check_no_run(store)
        if not store.create_durably(NAME, self._encode()):
            self.check_no_run(store)

    @staticmethod
    def check_no_run(store: Store) -> None:
        """Make sure that no run is in a folder, nor anything that would count as a run's.

        Raises:
            UsageError: there is one, or what is left of one.
            StorageError: the folder can't be listed.
        """
        found = RunFile.find_run_file(store)
        if found is None:
            return
        raise UsageError(
            f"{store.root} already holds a run, or what is left of one",
            f"{found} is there, and a run's files are never mixed with another's",
            RunFile._new_run_hint(store),
        )

    @staticmethod
    def _new_run_hint(store: Store) -> str:
        """Return what to do in place of a new run in a folder that holds one."""
        # Without its record, a run can't be resumed; a comparison's folders never had one.
        if not store.exists(NAME):
            return "Choose another --out, or remove that folder."
        with suppress(CommandError):
            if RunFile.load(store).state is State.COMPLETE:
                folder = shlex.quote(str(store.root))
                return (
                    f"That run is complete. Call `producer retry {folder}` to try its failed images again. Choose "
                    f"another --out to download the list again; add `--refresh-from {folder}` to take over the "
                    "images that have not changed."
                )
        # What is wrong with a record that can't be read is told by the command that resumes.
        return f"Go on with it by `{resume_command(store)}`, choose another --out, or remove that folder."

    @staticmethod
    def find_run_file(store: Store) -> str | None:
        """Return the name of something in a folder that is, or would count as, a run's; None for a free folder.

        Raises:
            StorageError: the folder can't be listed.
        """
        return next(
            (name for name in store.list_entries() if _RUN_FILES.fullmatch(name) and store.contains_files(name)), None
        )

    def save(self, store: Store, **changes: Any) -> Self:
        """Write it with changes, and return the changed record.

        Raises:
            StorageError: it can't be written; the old one still stands.
        """
        changed = replace(self, **changes)
        store.replace(NAME, changed._encode())
        return changed

    def broker_url(self) -> str | None:
        """Return the URL by which the broker of the last command can be connected to; None for a local fleet.

        Raises:
            UsageError: it has a password, which is not kept, and the environment names another broker.
        """
        configured = settings().broker
        if configured is not None and redacted(configured) == self.broker:
            return configured
        if self.broker is not None and _MASK in self.broker:
            raise UsageError(
                f"The broker of the run in {self.out} can't be asked",
                f"it is {self.broker}, and its password is not kept",
                "Add --broker with the whole URL, or set IMAGEFLEET_BROKER_URL to it.",
            )
        return self.broker

    def _encode(self) -> bytes:
        facts = {"version": _VERSION, **asdict(self)}
        return _serialize({**facts, "checksum": _checksum(facts)})

    @classmethod
    def _decode(cls, body: bytes) -> Self:
        facts = json.loads(body)
        # The last digit of a number can be another one, and the number the same.
        if _serialize(facts) != body:
            raise ValueError("it was written in another way")
        checksum = facts.pop("checksum")
        if checksum != _checksum(facts):
            raise ValueError("its checksum does not fit what it says")
        if facts.pop("version") != _VERSION:
            raise ValueError("another version has written it")
        options = facts["options"]
        facts["options"] = RunConfig(**{**options, "fetch": FetchOptions.from_json(options["fetch"])})
        facts["plan"], facts["state"] = PlanState(facts["plan"]), State(facts["state"])
        facts["retried"] = tuple(facts["retried"])
        return cls(**facts)


def resume_command(store: Store) -> str:
    """Return the command that goes on with the run in a folder, as a shell takes it.

    It names the broker that the run is at, with its password redacted, unless the environment names that one.
    """
    command = f"producer resume {shlex.quote(str(store.root))}"
    try:
        broker = RunFile.load(store).broker
    except CommandError:
        # What is wrong with the record is told by that command.
        return command
    configured = settings().broker
    if broker is None or (configured is not None and redacted(configured) == broker):
        return command
    return f"{command} --broker {shlex.quote(broker)}"


def _serialize(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _checksum(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of facts as JSON with sorted keys and no space."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def new_id() -> str:
    """Return an id for a run: its time to the second, so that ids sort, and six random digits."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
