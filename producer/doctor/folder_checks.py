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
from producer.formatting import format_mebibytes, named, pluralized
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
_MIN_BYTES = 8 * 1024**2
#: Bytes that should be free for a run of which nothing is known.
_ENOUGH_BYTES = 1024**3
#: Files that can still be made: without the first number a shard can't be saved, and the second is that of a few.
_MIN_FILES, _ENOUGH_FILES = 1_000, 20_000
#: Seconds for which the files of a plan are read, and as long the manifests; at least one is.
_READ_SECONDS = 5.0
#: What `compare` leaves above the folders of its three ways.
COMPARISON = "comparison.json"


def inspect_folder(store: Store) -> list[Finding]:
    """Return what is found of a folder that is there: its space and its run."""
    try:
        run = _inspect_run(store)
    except CommandError as fault:
        run = _RunFindings([finding_from_error("run", fault)])
    except StorageError as error:
        todo = "Ask as the user whose run it is."
        run = _RunFindings([Finding("run", Level.BAD, f"the folder can't be looked at: {error}", todo)])
    return [*space_findings(store, run.need), *run.findings]


@dataclass(frozen=True, slots=True)
class SpaceNeed:
    """Bytes that a run will take, by what its shards have taken: in flight at once, and in all that is left of it."""

    at_once: float
    in_all: float


def space_findings(store: Store, need: SpaceNeed | None = None) -> list[Finding]:
    """Return what is found of the disk of a folder; ``need`` is what the run in it will take, if that is known."""
    findings = []
    # Not every file system can tell.
    with suppress(OSError):
        findings.append(space_finding("disk here", shutil.disk_usage(store.root).free, need))
        files = os.statvfs(store.root)
        if files.f_files:
            findings += _inode_findings(files.f_favail)
    return findings


def space_finding(name: str, free: int, need: SpaceNeed | None = None) -> Finding:
    """Judge how many bytes are free where images are saved."""
    found, todo = f"{format_mebibytes(free)} are free", "Make space, or choose a folder on another disk."
    if need is None:
        if free < _MIN_BYTES:
            return Finding(
                name, Level.BAD, f"{found}, less than {format_mebibytes(_MIN_BYTES)}: too little for any run", todo
            )
        if free < _ENOUGH_BYTES:
            return Finding(name, Level.WARN, f"{found}, less than {format_mebibytes(_ENOUGH_BYTES)}: soon filled", todo)
        return Finding(name, Level.OK, found)
    if free < need.at_once:
        found += f"; the shards of this run that are in flight at once take about {format_mebibytes(need.at_once)}"
        return Finding(name, Level.BAD, found, todo)
    if need.in_all:
        found += f"; what is left of this run takes about {format_mebibytes(need.in_all)}"
    if free < need.in_all:
        return Finding(name, Level.WARN, found, todo)
    if free < _MIN_BYTES:
        # What is written besides images takes something, too.
        return Finding(name, Level.WARN, f"{found}; less than {format_mebibytes(_MIN_BYTES)} are soon filled", todo)
    return Finding(name, Level.OK, found)


def _inode_findings(free: int) -> list[Finding]:
    if free >= _ENOUGH_FILES:
        return []
    level = Level.BAD if free < _MIN_FILES else Level.WARN
    todo = "Remove files there, or choose a folder on another disk: each image is a file."
    return [Finding("disk files here", level, f"{pluralized(free, 'more file')} can be made (free inodes)", todo)]


@dataclass(frozen=True, slots=True)
class _RunFindings:
    """What is found of the run in a folder, and what it will take, if that is known."""

    findings: list[Finding]
    need: SpaceNeed | None = None


def _inspect_run(store: Store) -> _RunFindings:
    if not store.exists(NAME):
        return _RunFindings([_no_run_finding(store)])
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

    findings = [_state_finding(record, store, alive)]
    findings += _failure_findings(record, store)
    # A run that is done needs its plan no more; a retry does.
    needed = Level.WARN if record.state is State.COMPLETE and len(done) == shards else Level.BAD
    gone = [shard for shard in range(shards) if plan.name(shard) not in plans]
    read_plan = _read_files(set(range(shards)) - set(gone), lambda shard: load_plan(shard, store, record.id))
    findings.append(_plan_finding(record, store, shards, gone, read_plan, needed, alive is not None))
    read_manifests = _read_files(done, read_manifest)
    findings.append(_manifests_finding(record, store, shards, read_manifests, alive is not None))
    if missing:
        findings.append(_images_finding(record, store, missing))
    return _RunFindings(findings, _estimate_need(record, shards - len(done), sizes))


def _estimate_need(record: RunFile, left: int, sizes: Sequence[int]) -> SpaceNeed | None:
    """Return what a run will take of which so many planned shards are left; None where no shard tells of the others."""
    if not sizes:
        return None
    shard, window = sum(sizes) / len(sizes), record.options.window
    if record.plan is PlanState.OPEN:
        # As much is left as nobody knows, and more than is planned.
        left += window
    return SpaceNeed(shard * min(left, window), shard * left)


def _no_run_finding(store: Store) -> Finding:
    left = RunFile.find_run_file(store)
    if left is not None and _is_comparison_folder(store):
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


def _is_comparison_folder(store: Store) -> bool:
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


def _state_finding(record: RunFile, store: Store, alive: lock.LockHolder | None) -> Finding:
    listed = "standard input" if record.source == url_list.STANDARD_INPUT else record.source
    found = f"{record.id} of {listed}"
    if alive is not None:
        return Finding("run", Level.OK, f"{found}: its producer is {alive.text}")
    if record.state is State.COMPLETE:
        return Finding("run", Level.OK, f"{found}: complete, {pluralized(record.planned_rows, 'image')}")
    if record.state is State.RUNNING:
        dead = lock.dead_holder(store)
        who = f", {dead.text}," if dead is not None else ""
        found = f"{found}: its record says that it runs, but its producer{who} is dead"
    else:
        found = f"{found}: {record.state}"
    return Finding("run", Level.WARN, found, f"Go on with it by `{resume_command(store)}`.")


def _failure_findings(record: RunFile, store: Store) -> list[Finding]:
    """Judge what has failed in a complete run, by what its record says."""
    totals = record.totals or {}
    if record.state is not State.COMPLETE or not totals.get("failed"):
        return []
    again = sum(number for reason, number in totals["reasons"].items() if reason in WORTH_RETRYING)
    found = f"{totals['failed']:,} of {pluralized(totals['total'], 'image')}, {again:,} for reasons that may be gone"
    if not again:
        return [Finding("failures", Level.OK, found)]
    return [Finding("failures", Level.WARN, found, f"Try them again by `producer retry {_quoted_root(store)}`.")]


@dataclass(frozen=True, slots=True)
class _ReadResult:
    """Files of shards that were read: how many of how many, and what is wrong with which."""

    read: int
    total: int
    broken: dict[int, CommandError]

    def text(self, found: str, name: Callable[[int], str]) -> str:
        """Return what was found with how many were read, and which of them can't be trusted."""
        if not self.total:
            return found
        read = "all" if self.read == self.total else f"{self.read:,} of them, within {_READ_SECONDS:g} s,"
        if not self.broken:
            return f"{found}, {read} checked"
        bad = f"{len(self.broken):,} not to be trusted: {named(map(name, self.broken))}"
        return f"{found}; of {self.read:,} that were checked, {bad}"


def _read_files(shards: Iterable[int], read: Callable[[int], object]) -> _ReadResult:
    """Read what stands for each shard, in no order and only for a while, so that a part of many tells of all."""
    listed = sorted(shards, key=lambda shard: (shard * 0x9E3779B1) % 2**32)
    ends = time.monotonic() + _READ_SECONDS
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
    return _ReadResult(number, len(listed), broken)


def _plan_finding(
    record: RunFile, store: Store, shards: int, gone: list[int], reading: _ReadResult, needed: Level, alive: bool
) -> Finding:
    found = reading.text(f"{pluralized(shards, 'shard')} planned", plan.name)
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


def _manifests_finding(record: RunFile, store: Store, shards: int, reading: _ReadResult, alive: bool) -> Finding:
    found = reading.text(f"{reading.total:,} of {pluralized(shards, 'shard')} done", manifest.name)
    if reading.broken:
        fault = next(iter(reading.broken.values()))
        found = f"{found} ({fault.why})"
        todo = (
            f"Put a copy of it back that is whole; or remove it, and `{resume_command(store)}` does that shard again, "
            "without downloading what is saved."
        )
        return Finding("manifests", Level.BAD, found, todo)
    if reading.total < shards and not alive and record.state is State.COMPLETE:
        return Finding("manifests", Level.WARN, found, f"`{resume_command(store)}` makes those anew that are gone.")
    return Finding("manifests", Level.OK, found)


def _images_finding(record: RunFile, store: Store, missing: Mapping[int, int]) -> Finding:
    """Judge images that manifests name and that are not there, by how many each shard lacks."""
    lacking = named(f"{shard_name(shard)} ({number:,})" for shard, number in missing.items())
    found = f"{pluralized(sum(missing.values()), 'image')} that manifests name are gone, of shards {lacking}"
    resized = record.options.fetch.resize.mode is not ResizeMode.NO
    todo = (
        "Put them back; no command looks for them. Or remove the manifest of such a shard "
        f"({manifest.name(next(iter(missing)))}), and `{resume_command(store)}` does that shard again: what is saved "
        "of it "
        f"stays{'' if resized else ', and is not downloaded'}."
    )
    return Finding("images", Level.WARN, found, todo)


def _quoted_root(store: Store) -> str:
    return shlex.quote(str(store.root))
