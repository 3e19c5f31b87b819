"""What the doctor finds of an output folder on this machine: the space, and the run in it with its plan and manifests.

Nothing is changed and nothing is locked, so it may be asked while a run goes on.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from producer.doctor.finding import Finding, Level, finding_from_error
from producer.formatting import counted, mebibytes, named
from producer.output import lock
from producer.output.run_file import NAME, PlanState, RunFile, State, resume_command
from producer.output.shard_files import load_manifest, load_plan
from producer.sources import text as url_list
from tasks.errors import WORTH_RETRYING, CommandError, StorageError
from tasks.model import ResizeMode, shard_name
from tasks.storage import manifest, plan, shard_parquet
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import TEMPORARY, Store

#: Bytes without which nothing should begin: a few images, and the files beside them.
_LEAST = 8 * 1024**2
#: Bytes that should be free for a run of which nothing is known.
_FREE = 1024**3
#: Files that can still be made: without the first number a shard can't be saved, and the second is that of a few.
_LEAST_FILES, _FEW_FILES = 1_000, 20_000
#: Seconds for which the files of a plan are read, and as long the manifests; at least one is.
_PATIENCE = 5.0
#: What `compare` leaves above the folders of its three ways.
COMPARISON = "comparison.json"


def examined(store: Store) -> list[Finding]:
    """Return what is found of a folder that is there: its space and its run."""
    try:
        run = _run(store)
    except CommandError as fault:
        run = _Run([finding_from_error("run", fault)])
    except StorageError as error:
        todo = "Ask as the user whose run it is."
        run = _Run([Finding("run", Level.BAD, f"the folder can't be looked at: {error}", todo)])
    return [*space(store, run.need), *run.findings]


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a run will take, by what its shards have taken: in flight at once, and in all that is left of it."""

    at_once: float
    in_all: float


def space(store: Store, need: Need | None = None) -> list[Finding]:
    """Return what is found of the disk of a folder; ``need`` is what the run in it will take, if that is known."""
    findings = []
    # Not every file system can tell.
    with suppress(OSError):
        findings.append(of_space("disk here", shutil.disk_usage(store.root).free, need))
        files = os.statvfs(store.root)
        if files.f_files:
            findings += _of_files(files.f_favail)
    return findings


def of_space(name: str, free: int, need: Need | None = None) -> Finding:
    """Judge how many bytes are free where images are saved."""
    found, todo = f"{mebibytes(free)} are free", "Make space, or choose a folder on another disk."
    if need is None:
        if free < _LEAST:
            return Finding(name, Level.BAD, f"{found}, less than {mebibytes(_LEAST)}: too little for any run", todo)
        if free < _FREE:
            return Finding(name, Level.WARN, f"{found}, less than {mebibytes(_FREE)}: soon filled", todo)
        return Finding(name, Level.OK, found)
    if free < need.at_once:
        found += f"; the shards of this run that are in flight at once take about {mebibytes(need.at_once)}"
        return Finding(name, Level.BAD, found, todo)
    if need.in_all:
        found += f"; what is left of this run takes about {mebibytes(need.in_all)}"
    if free < need.in_all:
        return Finding(name, Level.WARN, found, todo)
    if free < _LEAST:
        # What is written besides images takes something, too.
        return Finding(name, Level.WARN, f"{found}; less than {mebibytes(_LEAST)} are soon filled", todo)
    return Finding(name, Level.OK, found)


def _of_files(free: int) -> list[Finding]:
    if free >= _FEW_FILES:
        return []
    level = Level.BAD if free < _LEAST_FILES else Level.WARN
    todo = "Remove files there, or choose a folder on another disk: each image is a file."
    return [Finding("disk files here", level, f"{counted(free, 'more file')} can be made (free inodes)", todo)]


@dataclass(frozen=True, slots=True)
class _Run:
    """What is found of the run in a folder, and what it will take, if that is known."""

    findings: list[Finding]
    need: Need | None = None


def _run(store: Store) -> _Run:
    if not store.exists(NAME):
        return _Run([_without_a_run(store)])
    record = RunFile.load(store)
    alive = lock.current_holder(store)
    shards = record.planned_shards
    plans = set(store.names(plan.FOLDER))
    if record.plan is PlanState.OPEN:
        shards = next(shard for shard in range(len(plans) + 1) if plan.name(shard) not in plans)
    standing = set(store.entries())
    done = [shard for shard in range(shards) if manifest.name(shard) in standing]
    sizes: list[int] = []
    missing: dict[int, int] = {}

    def read_manifest(shard: int) -> None:
        table = load_manifest(shard, store, record.id, None)
        sizes.append(pc.sum(table["bytes"]).as_py() or 0)
        gone = set(table["path"].drop_null().to_pylist()).difference(store.names(shard_name(shard)))
        if gone:
            missing[shard] = len(gone)

    findings = [_of_state(record, store, alive)]
    findings += _of_failures(record, store)
    # A run that is done needs its plan no more; a retry does.
    needed = Level.WARN if record.state is State.COMPLETE and len(done) == shards else Level.BAD
    gone = [shard for shard in range(shards) if plan.name(shard) not in plans]
    read_plan = _read(set(range(shards)) - set(gone), lambda shard: load_plan(shard, store, record.id))
    findings.append(_of_plan(record, store, shards, gone, read_plan, needed, alive is not None))
    read_manifests = _read(done, read_manifest)
    findings.append(_of_manifests(record, store, shards, read_manifests, alive is not None))
    if missing:
        findings.append(_of_images(record, store, missing))
    return _Run(findings, _need(record, shards - len(done), sizes))


def _need(record: RunFile, left: int, sizes: Sequence[int]) -> Need | None:
    """Return what a run will take of which so many planned shards are left; None where no shard tells of the others."""
    if not sizes:
        return None
    shard, window = sum(sizes) / len(sizes), record.options.window
    if record.plan is PlanState.OPEN:
        # As much is left as nobody knows, and more than is planned.
        left += window
    return Need(shard * min(left, window), shard * left)


def _without_a_run(store: Store) -> Finding:
    left = RunFile.find_run_file(store)
    if left is not None and _is_of_a_comparison(store):
        found = "no run is in it, but one of the ways of a comparison (`producer compare` or `producer demo`)"
        return Finding("run", Level.OK, f"{found}; a run needs another folder")
    if left is not None:
        found = f"{left} is left of a run whose {NAME} is gone"
        todo = "Choose another folder for a new run. Images and manifests here can be used as they are."
        return Finding("run", Level.BAD, found, todo)
    above = Store(store.root.parent)
    if above.exists(NAME) and (store.root.name in (plan.FOLDER, TEMPORARY) or store.root.name.isdecimal()):
        found = f"this is a part of the run in {above.root}"
        return Finding("run", Level.BAD, found, f"Give {above.root}.")
    return Finding("run", Level.OK, "no run is in it")


def _is_of_a_comparison(store: Store) -> bool:
    """Tell whether a folder without a run is that of a baseline: what stands in it says so, or what is beside it."""
    for name in (plan.name(0), manifest.name(0)):
        # Its files belong to a run without a name.
        with suppress(StorageError, CorruptShardFileError):
            shard_parquet.decode(store.read(name), [], ShardRef("", 0))
            return True
    with suppress(StorageError, ValueError, TypeError, KeyError):
        ways = json.loads(Store(store.root.parent).read(COMPARISON))["ways"]
        return any(Path(way["out"]).name == store.root.name for way in ways)
    return False


def _of_state(record: RunFile, store: Store, alive: lock.LockHolder | None) -> Finding:
    listed = "standard input" if record.source == url_list.STANDARD_INPUT else record.source
    found = f"{record.id} of {listed}"
    if alive is not None:
        return Finding("run", Level.OK, f"{found}: its producer is {alive.text}")
    if record.state is State.COMPLETE:
        return Finding("run", Level.OK, f"{found}: complete, {counted(record.planned_rows, 'image')}")
    if record.state is State.RUNNING:
        dead = lock.dead_holder(store)
        who = f", {dead.text}," if dead is not None else ""
        found = f"{found}: its record says that it runs, but its producer{who} is dead"
    else:
        found = f"{found}: {record.state}"
    return Finding("run", Level.WARN, found, f"Go on with it by `{resume_command(store)}`.")


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
    broken: dict[int, CommandError]

    def text(self, found: str, name: Callable[[int], str]) -> str:
        """Return what was found with how many were read, and which of them can't be trusted."""
        if not self.of:
            return found
        read = "all" if self.read == self.of else f"{self.read:,} of them, within {_PATIENCE:g} s,"
        if not self.broken:
            return f"{found}, {read} checked"
        bad = f"{len(self.broken):,} not to be trusted: {named(map(name, self.broken))}"
        return f"{found}; of {self.read:,} that were checked, {bad}"


def _read(shards: Iterable[int], read: Callable[[int], object]) -> _Reading:
    """Read what stands for each shard, in no order and only for a while, so that a part of many tells of all."""
    listed = sorted(shards, key=lambda shard: (shard * 0x9E3779B1) % 2**32)
    ends = time.monotonic() + _PATIENCE
    broken: dict[int, CommandError] = {}
    number = 0
    for shard in listed:
        if number and time.monotonic() > ends:
            break
        number += 1
        try:
            read(shard)
        except CommandError as fault:
            broken[shard] = fault
    return _Reading(number, len(listed), broken)


def _of_plan(
    record: RunFile, store: Store, shards: int, gone: list[int], reading: _Reading, needed: Level, alive: bool
) -> Finding:
    found = reading.text(f"{counted(shards, 'shard')} planned", plan.name)
    same = url_list.is_same(record.source, record.fingerprint)
    if gone:
        found = f"{found}; {len(gone):,} gone: {named(map(plan.name, gone))}"
    if gone or reading.broken:
        if same:
            return Finding("plan", Level.WARN, found, f"`{resume_command(store)}` makes it anew from {record.source}.")
        todo = f"Put a copy back that is whole: {url_list.why_not(record.source)}, so it can't be made anew."
        return Finding("plan", needed, found, todo)
    if record.plan is PlanState.OPEN and not alive:
        found = f"{found}; the list was not read to its end"
        if not same:
            todo = "Put the list back as it was; or run what is not planned of it into another folder."
            return Finding("plan", Level.WARN, f"{found}, and {url_list.why_not(record.source)}", todo)
    return Finding("plan", Level.OK, found)


def _of_manifests(record: RunFile, store: Store, shards: int, reading: _Reading, alive: bool) -> Finding:
    found = reading.text(f"{reading.of:,} of {counted(shards, 'shard')} done", manifest.name)
    if reading.broken:
        fault = next(iter(reading.broken.values()))
        found = f"{found} ({fault.why})"
        todo = (
            f"Put a copy of it back that is whole; or remove it, and `{resume_command(store)}` does that shard again, "
            "without downloading what is saved."
        )
        return Finding("manifests", Level.BAD, found, todo)
    if reading.of < shards and not alive and record.state is State.COMPLETE:
        return Finding("manifests", Level.WARN, found, f"`{resume_command(store)}` makes those anew that are gone.")
    return Finding("manifests", Level.OK, found)


def _of_images(record: RunFile, store: Store, missing: Mapping[int, int]) -> Finding:
    """Judge images that manifests name and that are not there, by how many each shard lacks."""
    lacking = named(f"{shard_name(shard)} ({number:,})" for shard, number in missing.items())
    found = f"{counted(sum(missing.values()), 'image')} that manifests name are gone, of shards {lacking}"
    resized = record.options.fetch.resize.mode is not ResizeMode.NO
    todo = (
        "Put them back; no command looks for them. Or remove the manifest of such a shard "
        f"({manifest.name(next(iter(missing)))}), and `{resume_command(store)}` does that shard again: what is saved "
        "of it "
        f"stays{'' if resized else ', and is not downloaded'}."
    )
    return Finding("images", Level.WARN, found, todo)


def _quoted(store: Store) -> str:
    return shlex.quote(str(store.root))
