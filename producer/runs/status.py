"""The status of a run: from Redis while its producer works, and from its files alone when the run is over."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

import redis

from producer.dispatch.progress import Progress, Speed
from producer.dispatch.published_progress import read_progress
from producer.output import lock
from producer.output.run_file import RunFile, State, continue_command, resume_command
from producer.output.shard_files import finished_shards, load_manifest
from producer.output.summary import COLUMNS, Summary, summarise
from producer.runs.live_run import broker_of_producer
from producer.runs.resume import is_plan_complete, plan_progress
from producer.sources import url_list
from tasks.broker import client as broker_client
from tasks.broker.redis_errors import redis_problem
from tasks.errors import WORTH_RETRYING, CommandError
from tasks.storage.parallel import parallel_map
from tasks.storage.store import Store

#: The state of a run whose record says that it is running, but whose producer has died.
KILLED = "killed"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The status of a run; times are in seconds since the epoch."""

    run_id: str
    #: The URL list, with secrets of a URL masked.
    source: str
    out: str
    #: One of the values of `State`, or ``killed``.
    state: str
    #: Whether the progress comes from Redis. Otherwise it comes from the run's files, which have only whole shards.
    live: bool
    progress: Progress
    started_at: float
    finished_at: float | None
    #: The command to continue with; empty if there is nothing to do.
    next: str = ""

    @property
    def is_running(self) -> bool:
        """Whether a producer works on the run."""
        return self.state == State.RUNNING

    def to_json(self) -> dict[str, Any]:
        """Return the status for ``--json``, with the fields of its progress."""
        facts = asdict(self)
        progress = facts.pop("progress")
        return {**facts, "ended": self.progress.ended, **progress}


class StatusReader:
    """Reads the status of one run, once or repeatedly. Close it after use."""

    def __init__(self, store: Store, broker_url: str | None) -> None:
        """Take the run's folder, and the URL of its broker as given by the user."""
        self._store, self._broker_url = store, broker_url
        self._record: RunFile | None = None
        self._server: redis.Redis | None = None

    def close(self) -> None:
        """Close the connection to the run's Redis; idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def read(self) -> RunStatus:
        """Return the present status.

        Raises:
            UsageError: the folder holds no usable run.
            CommandError: a file of the run is damaged.
        """
        if self._server is not None and self._record is not None:
            progress = self._read_progress(self._server, self._record)
            if progress is not None:
                return self._live(self._record, progress)
            self.close()
        record = RunFile.load_usable(self._store)
        producer = lock.current_holder(self._store)
        if producer is None:
            # The producer may have ended between the two reads.
            return self._over(RunFile.load_usable(self._store))
        if record.state is State.COMPLETE:
            # Its producer still stops a local fleet or writes the report, or another command has just begun.
            return self._over(record)
        return self._running(record, producer)

    def _running(self, record: RunFile, producer: lock.LockHolder) -> RunStatus:
        """Return the status of a run with a producer. If Redis does not tell it, the note says why."""
        try:
            url = broker_of_producer(producer, record, self._store, self._broker_url)
            server = broker_client.client(url, retry=False)
        except CommandError as error:
            return self._from_files(record, State.RUNNING, f"{error.what}: {error.why}. {error.hint}")
        self._record, self._server = record, server
        try:
            progress = read_progress(server, record.id)
        except redis.RedisError as error:
            self.close()
            return self._from_files(record, State.RUNNING, f"{redis_problem(error).note}")
        if progress is None:
            self.close()
            note = f"the producer has reported no progress yet, is ending, or is paused ({producer.text})"
            return self._from_files(record, State.RUNNING, note)
        return self._live(record, progress)

    def _live(self, record: RunFile, progress: Progress) -> RunStatus:
        # A command on an existing run marks its record as running only after it has taken the lock.
        return replace(self._status(record, progress, live=True), state=State.RUNNING)

    def _over(self, record: RunFile) -> RunStatus:
        if record.state is not State.COMPLETE:
            state = KILLED if record.state is State.RUNNING else record.state
            return replace(self._from_files(record, state, ""), next=resume_command(self._store))
        totals = record.totals or {}
        progress = Progress(
            success=totals.get("success", 0),
            failed=totals.get("failed", 0),
            bytes=totals.get("bytes", 0),
            planned=record.planned_rows,
            plan_complete=True,
            reasons=totals.get("reasons", {}),
            repaired=totals.get("repaired", 0),
            speed=_speed(totals),
        )
        status = self._status(record, progress, live=False)
        if not progress.failed:
            return status
        if progress.reasons.keys().isdisjoint(WORTH_RETRYING):
            return replace(status, next=f"producer failures {shlex.quote(self._store.location)}")
        return replace(status, next=continue_command("retry", self._store))

    def _from_files(self, record: RunFile, state: str, note: str) -> RunStatus:
        """Return the status of an incomplete run, from its plan and the manifests that exist."""
        planned = plan_progress(record, self._store)
        summary = self._summary(record, planned.shards)
        progress = Progress(
            success=summary.success,
            failed=summary.failed,
            bytes=summary.bytes,
            planned=planned.rows,
            plan_complete=is_plan_complete(record, planned),
            reasons=summary.reasons,
            note=note,
        )
        return replace(self._status(record, progress, live=False), state=state)

    def _summary(self, record: RunFile, shards: int) -> Summary:
        store, run_id, existing = self._store, record.id, finished_shards(shards, self._store)
        return summarise(parallel_map(lambda shard: load_manifest(shard, store, run_id, COLUMNS), existing, store))

    def _status(self, record: RunFile, progress: Progress, live: bool) -> RunStatus:
        return RunStatus(
            run_id=record.id,
            source=url_list.shown(record.source),
            out=self._store.location,
            state=record.state,
            live=live,
            progress=progress,
            started_at=record.started_at,
            finished_at=record.finished_at,
        )

    @staticmethod
    def _read_progress(server: redis.Redis, record: RunFile) -> Progress | None:
        """Return the progress in Redis; None if Redis is unreachable or has none."""
        try:
            return read_progress(server, record.id)
        except redis.RedisError:
            return None


def _speed(totals: dict[str, Any]) -> Speed:
    """Return the speed of the command that completed a run, from the totals in run.json."""
    return Speed.average(totals.get("fetched", 0), totals.get("fetched_bytes", 0), totals.get("wall_seconds", 0.0))
