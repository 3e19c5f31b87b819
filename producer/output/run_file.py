"""``run.json``: the record of a run in its output folder.

It holds the run's id, URL list, options, state and revision. When the run ends, the run's totals are added. The file
also holds the state of the run's plan: ``open`` while the list is still being read, then ``complete``. The file is
replaced atomically, by rename. It contains a checksum. So an edited or truncated file is reported and never used.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
import time
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Self

from config import limits
from config.settings import settings
from producer.sources.options import SourceOptions
from tasks.errors import CommandError, StorageError, UsageError
from tasks.model import FetchOptions, OutputOptions
from tasks.redaction import redacted
from tasks.storage.store import Store

NAME = "run.json"
#: The name of the file with the failed images, which `producer.output.failures` writes.
FAILURES_NAME = "failures.jsonl"
#: The name of the run's report, which `producer.report` writes.
REPORT_NAME = "report.html"
#: The names of a run's files at the top of its folder. A new run would mistake a stale manifest for one of its own
#: manifests.
_RUN_FILES = re.compile(r"run\.json|failures\.jsonl|report\.html|\.plan|\d{5,}(\.parquet|\.tar|_stats\.json)?")
_VERSION = 3
#: The replacement for a secret in `redacted` text.
_MASK = "***"


class State(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    FAILED = "failed"
    #: A command was told to overwrite the run, and has not removed all files of the run yet.
    REMOVING = "removing"


class PlanState(StrEnum):
    """Whether the URL list was fully read."""

    OPEN = "open"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The options of a run, which are fixed at its start.

    They say how to read the list, how to fetch images, and how large shards are.
    """

    fetch: FetchOptions = field(default_factory=FetchOptions)
    shard_size: Annotated[int, limits.SHARD_SIZE] = 1000
    window: Annotated[int, limits.WINDOW] = 8
    #: The maximum number of further shards in flight if all their remaining images wait for busy hosts.
    max_parked: Annotated[int, limits.PARKED_SHARDS] = 64
    #: The folder of the previous run to refresh, or None.
    previous_run: str | None = None
    output: OutputOptions = field(default_factory=OutputOptions)
    #: How to read the URL list.
    source: SourceOptions = field(default_factory=SourceOptions)

    @property
    def has_own_names(self) -> bool:
        """Whether the images have custom names, either from the list or from a template."""
        return self.output.path_template is not None or self.source.path_col is not None


@dataclass(frozen=True, slots=True)
class RunFile:
    """The content of ``run.json``; times are in seconds since the epoch."""

    id: str
    source: str
    out: str
    options: RunConfig
    #: A fingerprint of the URL list, to detect changes; None for a list that can't be read twice.
    fingerprint: str | None = None
    plan: PlanState = PlanState.OPEN
    planned_rows: int = 0
    planned_shards: int = 0
    #: The numbers of shards and rows in the lists before the current list. Both are 0 unless the run was extended.
    earlier_shards: int = 0
    earlier_rows: int = 0
    state: State = State.RUNNING
    #: The revision: 0 for the first download. Each retry adds 1.
    revision: int = 0
    #: The producer epoch: 0 for the first command of the run. Each command that continues the run adds 1.
    epoch: int = 0
    #: The redacted URL of the current or last command's broker; None for a local fleet.
    broker: str | None = None
    #: The failure reasons that this revision retries.
    retried: tuple[str, ...] = ()
    started_at: float = field(default_factory=time.time)
    finished_at: float | None = None
    totals: dict[str, Any] | None = None

    @property
    def first_index(self) -> int:
        """The index of the first row of the current list."""
        return self.earlier_shards * self.options.shard_size

    def end_index(self, rows: int) -> int:
        """Return the index that follows the last planned row of a run with ``rows`` planned rows.

        If the last shard of an earlier list is not full, this index is larger than the number of rows.
        """
        return self.first_index + rows - self.earlier_rows

    @classmethod
    def load_usable(cls, store: Store) -> Self:
        """Read the run.json of a run that a command can work on.

        Raises:
            UsageError: the folder holds no run, or a run with some files already removed.
            CommandError: the file is damaged.
        """
        record = cls.load(store)
        if record.state is State.REMOVING:
            raise UsageError(
                f"Some files of the run in {store.location} are already removed",
                "a command with `--incremental overwrite` was interrupted while it removed the run",
                "Run that command again, or remove the folder.",
            )
        return record

    @classmethod
    def load(cls, store: Store) -> Self:
        """Read a folder's run.json.

        Raises:
            UsageError: the folder holds no run.
            CommandError: the file is damaged, or can't be read.
        """
        cls.require(store)
        try:
            body = store.read(NAME)
        except StorageError as error:
            raise unreadable_error(store, NAME, error) from error
        try:
            return cls._decode(body)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CommandError(
                f"{store.describe(NAME)} is damaged",
                f"it can't be read ({error or type(error).__name__}); nothing was changed",
                "Images and manifests are not affected, and can be used as they are. To continue the run, restore a "
                "good copy of this file. If there is no copy, download the list into another folder: "
                "`producer run SOURCE --out ANOTHER`.",
            ) from error

    @staticmethod
    def is_in(store: Store) -> bool:
        """Return whether a folder holds a run.

        Raises:
            CommandError: the store can't be asked.
        """
        try:
            return store.exists(NAME)
        except StorageError as error:
            raise CommandError(
                f"The output folder {store.location} can't be read",
                str(error),
                "Check the store, and the permissions of this user or of the credentials in the environment.",
            ) from error

    @staticmethod
    def require(store: Store) -> None:
        """Check that a folder holds a run.

        Raises:
            UsageError: the folder holds no run.
            CommandError: the store can't be asked.
        """
        if not RunFile.is_in(store):
            raise UsageError(
                f"{store.location} holds no run",
                f"there is no {NAME} in it",
                "Give the folder that the run was started with (--out).",
            )

    def create(self, store: Store) -> None:
        """Write the file into a folder without a run.

        Raises:
            UsageError: the folder holds a run.
            StorageError: the file can't be written.
        """
        self.check_no_run(store)
        if not store.create_durably(NAME, self._encode()):
            self.check_no_run(store)

    @staticmethod
    def check_no_run(store: Store) -> None:
        """Check that a folder holds no run, and no file that has the name of a run's file.

        Raises:
            UsageError: the folder holds a run, or leftovers of a run.
            StorageError: the folder can't be listed.
        """
        found = RunFile.find_run_file(store)
        if found is None:
            return
        raise UsageError(
            f"{store.location} already holds a run, or leftovers of one",
            f"it contains {found}, and a folder can't hold the files of two runs",
            RunFile._new_run_hint(store),
        )

    @staticmethod
    def _new_run_hint(store: Store) -> str:
        """Return the hint for a user who starts a run in a folder that already holds a run."""
        # Without run.json, a run can't be resumed. The folders of a comparison never have a run.json.
        if not store.exists(NAME):
            return "Choose another --out, or remove that folder."
        with suppress(CommandError):
            if RunFile.load(store).state is State.COMPLETE:
                folder = shlex.quote(store.location)
                return (
                    f"That run is complete. Use `{continue_command('retry', store)}` to retry its failed images. "
                    f"Choose another --out to download the list again; add `--refresh-from {folder}` to reuse the "
                    "unchanged images. Or add `--incremental overwrite` to replace the run, or `--incremental extend` "
                    "to add another list to it."
                )
        # For a damaged run.json, `resume` reports the problem.
        return (
            f"Resume it with `{resume_command(store)}`, choose another --out, or remove that folder. Or add "
            "`--incremental skip` to continue a run of the same list, or `--incremental overwrite` to replace it."
        )

    @staticmethod
    def find_run_file(store: Store, known: Container[str] = ()) -> str | None:
        """Return the name of a file or folder that is, or seems to be, part of a run.

        Return None if the folder has no such file or folder.

        Args:
            store: the folder.
            known: names to ignore.

        Raises:
            StorageError: the folder can't be listed.
        """
        found = (name for name in store.list_entries() if _RUN_FILES.fullmatch(name) and name not in known)
        return next((name for name in found if store.contains_files(name)), None)

    def save(self, store: Store, **changes: Any) -> Self:
        """Write the record with changes, and return it.

        Raises:
            StorageError: the file can't be written. The old file is kept.
        """
        changed = replace(self, **changes)
        store.replace(NAME, changed._encode())
        return changed

    @property
    def broker_words(self) -> list[str]:
        """The option for the run's broker; empty for a local fleet, or if the environment names the same broker.

        The broker's password is redacted.
        """
        configured = settings().broker
        if self.broker is None or (configured is not None and redacted(configured) == self.broker):
            return []
        return ["--broker", self.broker]

    def broker_url(self) -> str | None:
        """Return the URL of the last command's broker; None for a local fleet.

        Raises:
            UsageError: the URL has a password that run.json omits, and the environment does not name the same broker.
        """
        configured = settings().broker
        if configured is not None and redacted(configured) == self.broker:
            return configured
        if self.broker is not None and _MASK in self.broker:
            raise UsageError(
                f"The broker's password is missing for the run in {self.out}",
                f"the broker is {self.broker}, and its password is not saved",
                "Add --broker with the full URL, or set IMAGEFLEET_BROKER_URL to it.",
            )
        return self.broker

    def _encode(self) -> bytes:
        facts = {"version": _VERSION, **asdict(self)}
        return _serialize({**facts, "checksum": _checksum(facts)})

    @classmethod
    def _decode(cls, body: bytes) -> Self:
        facts = json.loads(body)
        # Compare bytes, because a number with a different last digit may parse to the same value.
        if _serialize(facts) != body:
            raise ValueError("it was edited")
        checksum = facts.pop("checksum")
        if checksum != _checksum(facts):
            raise ValueError("its checksum does not match its content")
        if facts.pop("version") != _VERSION:
            raise ValueError("it was written by another version")
        facts["options"] = _decode_config(facts["options"])
        facts["plan"], facts["state"] = PlanState(facts["plan"]), State(facts["state"])
        facts["retried"] = tuple(facts["retried"])
        return cls(**facts)


def unreadable_error(store: Store, name: str, error: StorageError) -> CommandError:
    """Return the error for a run's file that exists, but can't be read now. The file may be undamaged."""
    return CommandError(
        f"{store.describe(name)} can't be read",
        f"{error}; nothing was changed",
        "Check the store, and the permissions of this user or of the credentials in the environment. Then run the "
        "command again.",
    )


def resume_command(store: Store) -> str:
    """Return the shell command to resume the run in a folder, as `continue_command` does."""
    return continue_command("resume", store)


def continue_command(name: str, store: Store, options: str = "") -> str:
    """Return the shell command of this name that continues the run in a folder, with the options given.

    The command names the run's broker, with the password redacted, unless the environment names the same broker.
    """
    command = f"producer {name} {shlex.quote(store.location)}{options}"
    try:
        return " ".join([command, *map(shlex.quote, RunFile.load(store).broker_words)])
    except CommandError:
        # The command reports the damaged run.json.
        return command


def _decode_config(facts: Mapping[str, Any]) -> RunConfig:
    known = {
        "fetch": FetchOptions.from_json(facts["fetch"]),
        "source": SourceOptions.from_json(facts.get("source", {})),
        "output": OutputOptions.from_json(facts.get("output", {})),
    }
    return RunConfig(**{**facts, **known})


def _serialize(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _checksum(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the facts, written as JSON with sorted keys and without spaces."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def new_id() -> str:
    """Return a new run id. It consists of the local time in seconds, for sorting, and six random hex digits."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
