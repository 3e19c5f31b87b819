"""What the doctor finds of an output folder on this machine: the space, and the run in it with its plan and manifests.

Nothing is changed and nothing is locked, so it may be asked while a run goes on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import pyarrow.compute as pc

from producer import lock, sources
from producer.dispatch import decoded, planned
from producer.finding import Finding, Level, counted, mebibytes, named
from producer.runfile import NAME, PlanState, RunFile, State
from tasks import manifest, plan
from tasks.errors import WORTH_RETRYING, Fault, StorageFailed
from tasks.storage import TEMPORARY, Store

#: Bytes without which no run should begin: the largest image that is kept, by default.
_LEAST = 64 * 1024**2
#: Bytes that should be free where images are saved.
_FREE = 1024**3
#: Files that can still be made: without the first number a shard can't be saved, and the second is that of a few.
_LEAST_FILES, _FEW_FILES = 1_000, 20_000
#: Seconds for which the files of a plan are read, and as long the manifests; at least one is.
_PATIENCE = 5.0


def examined(store: Store) -> list[Finding]:
    """Return what is found of a folder that is there: its space and its run."""
    try:
        run = _run(store)
    except Fault as fault:
        run = _Run([_of_fault("run", fault)])
    except StorageFailed as error:
        todo = "Ask as the user whose run it is."
        run = _Run([Finding("run", Level.BAD, f"the folder can't be looked at: {error}", todo)])
    return [*space(store, run.shard_bytes), *run.findings]


def space(store: Store, shard_bytes: float = 0.0) -> list[Finding]:
    """Return what is found of the disk of a folder; ``shard_bytes`` is what a shard of its run takes, if known."""
    findings = []
    # Not every file system can tell.
    with suppress(OSError):
        findings.append(of_space("disk here", shutil.disk_usage(store.root).free, shard_bytes))
        files = os.statvfs(store.root)
        if files.f_files:
            findings += _of_files(files.f_favail)
    return findings


def of_space(name: str, free: int, shard_bytes: float = 0.0) -> Finding:
    """Judge how many bytes are free where images are saved."""
    found = f"{mebibytes(free)} are free"
    if shard_bytes:
        found += f"; a shard of this run takes {mebibytes(shard_bytes)}"
    todo = "Make space, or choose a folder on another disk."
    if free < max(_LEAST, shard_bytes):
        return Finding(name, Level.BAD, found if shard_bytes else f"{found}: less than one large image takes", todo)
    return Finding(name, Level.WARN, found, todo) if free < _FREE else Finding(name, Level.OK, found)


def _of_files(free: int) -> list[Finding]:
    if free >= _FEW_FILES:
        return []
    level = Level.BAD if free < _LEAST_FILES else Level.WARN
    todo = "Remove files there, or choose a folder on another disk: each image is a file."
    return [Finding("disk files here", level, f"{counted(free, 'more file')} can be made (free inodes)", todo)]


@dataclass(frozen=True, slots=True)
class _Run:
    """What is found of the run in a folder, and what its shards take."""

    findings: list[Finding]
    shard_bytes: float = 0.0


def _run(store: Store) -> _Run:
    if not store.exists(NAME):
        return _Run([_without_a_run(store)])
    record = RunFile.load(store)
    alive = lock.holder(store)
    shards = record.planned_shards
    plans = set(store.names(plan.FOLDER))
    if record.plan is PlanState.OPEN:
        shards = next(shard for shard in range(len(plans) + 1) if plan.name(shard) not in plans)
    standing = set(store.entries())
    done = [shard for shard in range(shards) if manifest.name(shard) in standing]
    sizes: list[int] = []

    def read_manifest(shard: int) -> None:
        table = decoded(shard, store, record.id, None)
        sizes.append(pc.sum(table["bytes"]).as_py() or 0)

    findings = [_of_state(record, store, alive)]
    findings += _of_failures(record, store)
    # A run that is done needs its plan no more; a retry does.
    needed = Level.WARN if record.state is State.COMPLETE and len(done) == shards else Level.BAD
    gone = [shard for shard in range(shards) if plan.name(shard) not in plans]
    read_plan = _read(set(range(shards)) - set(gone), lambda shard: planned(shard, store, record.id))
    findings.append(_of_plan(record, store, shards, gone, read_plan, needed, alive is not None))
    findings.append(_of_manifests(record, store, shards, _read(done, read_manifest), alive is not None))
    return _Run(findings, sum(sizes) / len(sizes) if sizes else 0.0)


def _without_a_run(store: Store) -> Finding:
    left = RunFile.remains(store)
    if left is not None:
        found = f"{left} is left of a run whose {NAME} is gone"
        todo = "Choose another folder for a new run. Images and manifests here can be used as they are."
        return Finding("run", Level.BAD, found, todo)
    above = Store(store.root.parent)
    if above.exists(NAME) and (store.root.name in (plan.FOLDER, TEMPORARY) or store.root.name.isdecimal()):
        found = f"this is a part of the run in {above.root}"
        return Finding("run", Level.BAD, found, f"Give {above.root}.")
    return Finding("run", Level.OK, "no run is in it")


def _of_state(record: RunFile, store: Store, alive: lock.Holder | None) -> Finding:
    found = f"{record.id} of {record.source}"
    if alive is not None:
        return Finding("run", Level.OK, f"{found}: its producer is {alive.text}")
    if record.state is State.COMPLETE:
        return Finding("run", Level.OK, f"{found}: complete, {counted(record.planned_rows, 'image')}")
    if record.state is State.RUNNING:
        dead = lock.left_by(store)
        who = f", {dead.text}," if dead is not None else ""
        found = f"{found}: its record says that it runs, but its producer{who} is dead"
    else:
        found = f"{found}: {record.state}"
    return Finding("run", Level.WARN, found, f"Go on with it by `{_resume(store)}`.")


def _of_failures(record: RunFile, store: Store) -> list[Finding]:
    """Judge what has failed in a complete run, by what its record says."""
    totals = record.totals or {}
    if record.state is not State.COMPLETE or not totals.get("failed"):
        return []
    again = sum(number for reason, number in totals["reasons"].items() if reason in WORTH_RETRYING)
    found = f"{totals['failed']:,} of {counted(totals['total'], 'image')}, {again:,} for reasons that may be gone"
    if not again:
        return [Finding("failures", Level.OK, found)]
    return [Finding("failures", Level.WARN, found, f"Try them again by `producer retry {_quoted(store)}`.")]


@dataclass(frozen=True, slots=True)
class _Reading:
    """Files of shards that were read: how many of how many, and what is wrong with which."""

    read: int
    of: int
    broken: dict[int, Fault]

    @property
    def text(self) -> str:
        """How many were read."""
        number = "all" if self.read == self.of else f"{self.read:,} of them, within {_PATIENCE:g} s,"
        return f"{number} checked"


def _read(shards: Iterable[int], read: Callable[[int], object]) -> _Reading:
    """Read what stands for each shard, in no order and only for a while, so that a part of many tells of all."""
    listed = sorted(shards, key=lambda shard: (shard * 0x9E3779B1) % 2**32)
    ends = time.monotonic() + _PATIENCE
    broken: dict[int, Fault] = {}
    number = 0
    for shard in listed:
        if number and time.monotonic() > ends:
            break
        number += 1
        try:
            read(shard)
        except Fault as fault:
            broken[shard] = fault
    return _Reading(number, len(listed), broken)


def _of_plan(
    record: RunFile, store: Store, shards: int, gone: list[int], reading: _Reading, needed: Level, alive: bool
) -> Finding:
    found = f"{counted(shards, 'shard')} planned, {reading.text}"
    same = sources.is_same(record.source, record.fingerprint)
    if bad := [*gone, *reading.broken]:
        found = f"{found}; gone, or not to be trusted: {named(map(plan.name, bad))}"
        if same:
            return Finding("plan", Level.WARN, found, f"`{_resume(store)}` makes it anew from {record.source}.")
        todo = f"Put a copy back that is whole: {sources.why_not(record.source)}, so it can't be made anew."
        return Finding("plan", needed, found, todo)
    if record.plan is PlanState.OPEN and not alive:
        found = f"{found}; the list was not read to its end"
        if not same:
            todo = "Put the list back as it was; or run what is not planned of it into another folder."
            return Finding("plan", Level.WARN, f"{found}, and {sources.why_not(record.source)}", todo)
    return Finding("plan", Level.OK, found)


def _of_manifests(record: RunFile, store: Store, shards: int, reading: _Reading, alive: bool) -> Finding:
    found = f"{reading.of:,} of {counted(shards, 'shard')} done, {reading.text}"
    if reading.broken:
        fault = next(iter(reading.broken.values()))
        found = f"{found}; not to be trusted: {named(map(manifest.name, reading.broken))} ({fault.why})"
        todo = (
            f"Put a copy of it back that is whole; or remove it, and `{_resume(store)}` does that shard again, without "
            "downloading what is saved."
        )
        return Finding("manifests", Level.BAD, found, todo)
    if reading.of < shards and not alive and record.state is State.COMPLETE:
        return Finding("manifests", Level.WARN, found, f"`{_resume(store)}` makes those anew that are gone.")
    return Finding("manifests", Level.OK, found)


def _of_fault(name: str, fault: Fault) -> Finding:
    return Finding(name, Level.BAD, f"{fault.what}: {fault.why}", fault.todo)


def _resume(store: Store) -> str:
    return f"producer resume {_quoted(store)}"


def _quoted(store: Store) -> str:
    return shlex.quote(str(store.root))
