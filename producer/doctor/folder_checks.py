"""The doctor's checks of an output folder on this machine: disk space, and the run with its plan and manifests.

The checks don't change or lock anything, so they may be done during a run.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from producer.doctor.finding import Finding, Level, finding_from_error
from producer.formatting import format_size, list_names, pluralized
from producer.output import lock
from producer.output.run_file import NAME, PlanState, RunFile, State, continue_command, resume_command
from producer.output.shard_files import finished_shards, load_manifest, load_plan, planned_shards
from producer.sources import url_list
from tasks.errors import WORTH_RETRYING, CommandError, StorageError
from tasks.model import shard_name
from tasks.outputs.packing import count_missing, packed_name
from tasks.storage import manifest, plan, shard_parquet
from tasks.storage.local_store import TEMPORARY_FOLDER, LocalStore
from tasks.storage.shard_parquet import CorruptShardFileError, ShardRef
from tasks.storage.store import Store

#: A run should not start with fewer free bytes. A few images and the files of one shard need about this much space.
_MIN_BYTES = 8 * 1024**2
#: Free bytes to ask for if a run's size is unknown.
_ENOUGH_BYTES = 1024**3
#: Numbers of free inodes. The first number is the minimum for a shard. The second is enough for a few shards.
_MIN_FILES, _ENOUGH_FILES = 1_000, 20_000
#: Time limit in seconds for checking the plan files, and again for checking the manifests. At least one file of each
#: kind is checked.
_READ_SECONDS = 5.0
#: The file written by `compare` above the folders of its three ways.
COMPARISON = "comparison.json"


def inspect_folder(store: Store) -> list[Finding]:
    """Check an existing folder: its disk space and its run."""
    try:
        run = _inspect_run(store)
    except CommandError as error:
        run = _RunFindings([finding_from_error("run", error)])
    except StorageError as error:
        todo = "Run this as the user who owns the run."
        run = _RunFindings([Finding("run", Level.BAD, f"the folder can't be read: {error}", todo)])
    space = space_findings(store, run.need) if isinstance(store, LocalStore) else []
    return [*space, *run.findings]


@dataclass(frozen=True, slots=True)
class SpaceNeed:
    """The bytes that a run needs for its shards in flight, and for all its remaining shards.

    Both numbers are estimated from finished shards.
    """

    in_flight: float
    remaining: float


def space_findings(store: LocalStore, need: SpaceNeed | None = None) -> list[Finding]:
    """Check the folder's disk for free space and inodes.

    ``need`` is the estimated space that the run in the folder needs, if known.
    """
    findings = []
    # Some file systems do not report their free space and inodes.
    with suppress(OSError):
        findings.append(space_finding("disk here", shutil.disk_usage(store.root).free, need))
        files = os.statvfs(store.root)
        if files.f_files:
            findings += _inode_findings(files.f_favail)
    return findings


def space_finding(name: str, free: int, need: SpaceNeed | None = None) -> Finding:
    """Check whether a disk for images has enough free bytes."""
    found, todo = f"{format_size(free)} are free", "Make space, or choose a folder on another disk."
    if need is None:
        if free < _MIN_BYTES:
            return Finding(
                name, Level.BAD, f"{found}, less than {format_size(_MIN_BYTES)}: too little for any run", todo
            )
        if free < _ENOUGH_BYTES:
            return Finding(
                name, Level.WARN, f"{found}, less than {format_size(_ENOUGH_BYTES)}: the disk may fill up soon", todo
            )
        return Finding(name, Level.OK, found)
    if free < need.in_flight:
        found += f"; the shards in flight need about {format_size(need.in_flight)}"
        return Finding(name, Level.BAD, found, todo)
    if need.remaining:
        found += f"; the rest of this run needs about {format_size(need.remaining)}"
    if free < need.remaining:
        return Finding(name, Level.WARN, found, todo)
    if free < _MIN_BYTES:
        # Other files than images take space, too.
        return Finding(
            name, Level.WARN, f"{found}; a disk with less than {format_size(_MIN_BYTES)} fills up soon", todo
        )
    return Finding(name, Level.OK, found)


def _inode_findings(free: int) -> list[Finding]:
    if free >= _ENOUGH_FILES:
        return []
    level = Level.BAD if free < _MIN_FILES else Level.WARN
    todo = "Remove files there, or choose a folder on another disk: each image is a file."
    return [Finding("disk files here", level, f"the disk has free inodes for {pluralized(free, 'more file')}", todo)]


@dataclass(frozen=True, slots=True)
class _RunFindings:
    """The findings about the run in a folder, and the space that the run needs, if known."""

    findings: list[Finding]
    need: SpaceNeed | None = None


@dataclass(frozen=True, slots=True)
class _InspectedRun:
    """The run in a folder, the number of its planned shards, and its producer if it is alive."""

    record: RunFile
    store: Store
    shards: int
    producer: lock.LockHolder | None


def _inspect_run(store: Store) -> _RunFindings:
    if not store.exists(NAME):
        return _RunFindings([_no_run_finding(store)])
    record = RunFile.load(store)
    producer = lock.current_holder(store)
    shards, plans = planned_shards(record, store), set(store.list_files(plan.FOLDER))
    done = finished_shards(shards, store)
    sizes: list[int] = []
    missing: dict[int, int] = {}

    def read_manifest(shard: int) -> None:
        table = load_manifest(shard, store, record.id, None)
        sizes.append(pc.sum(table["bytes"]).as_py() or 0)
        if gone := _count_missing_images(shard, table, record, store):
            missing[shard] = gone

    run = _InspectedRun(record, store, shards, producer)
    findings = [_state_finding(run)]
    if record.state is State.REMOVING:
        return _RunFindings(findings)
    findings += _failure_findings(record, store)
    # A complete run no longer needs its plan, but a retry of the run does.
    needed = Level.WARN if record.state is State.COMPLETE and len(done) == shards else Level.BAD
    gone = [shard for shard in range(shards) if plan.name(shard) not in plans]
    read_plan = _read_files(set(range(shards)) - set(gone), lambda shard: load_plan(shard, store, record.id))
    findings.append(_plan_finding(run, gone, read_plan, needed))
    read_manifests = _read_files(done, read_manifest)
    findings.append(_manifests_finding(run, read_manifests))
    if missing:
        findings.append(_images_finding(record, store, missing))
    return _RunFindings(findings, _estimate_need(record, shards - len(done), sizes))


def _count_missing_images(shard: int, table: pa.Table, record: RunFile, store: Store) -> int:
    """Return the number of images in a manifest whose files are missing on disk."""
    output = record.options.output
    if packed_name(shard, output) is None:
        paths = set(map(str, table["path"].drop_null().to_pylist()))
        gone = paths.difference(store.list_files(shard_name(shard)))
        # Files with other names are not in the shard's folder.
        return sum(not store.exists(path) for path in gone)
    saved = table.filter(pc.is_valid(table["path"]))
    sizes: dict[str, int] = {row["key"]: row["bytes"] for row in saved.select(["key", "bytes"]).to_pylist()}
    return count_missing(shard, sizes, output, store)


def _estimate_need(record: RunFile, left: int, sizes: Sequence[int]) -> SpaceNeed | None:
    """Estimate the space for the remaining planned shards; None if no finished shard gives a size."""
    if not sizes:
        return None
    shard, window = sum(sizes) / len(sizes), record.options.window
    if record.plan is PlanState.OPEN:
        # The URL list contains an unknown number of shards that are not planned yet.
        left += window
    return SpaceNeed(shard * min(left, window), shard * left)


def _no_run_finding(store: Store) -> Finding:
    left = RunFile.find_run_file(store)
    if left is not None and _is_comparison_folder(store):
        found = "it holds no run, but one way of a comparison (`producer compare` or `producer demo`)"
        return Finding("run", Level.OK, f"{found}; a new run needs a different folder")
    if left is not None:
        found = f"{left} is from a run, but {NAME} is missing"
        todo = "Choose another folder for a new run. Images and manifests here can be used as they are."
        return Finding("run", Level.BAD, found, todo)
    if isinstance(store, LocalStore) and (run := _run_above(store)) is not None:
        return Finding("run", Level.BAD, f"this folder is a part of the run in {run}", f"Use {run}.")
    return Finding("run", Level.OK, "no run is in it")


def _run_above(store: LocalStore) -> Path | None:
    """Return the folder of the run to which this folder belongs; None if it belongs to no run."""
    is_part = store.root.name in (plan.FOLDER, TEMPORARY_FOLDER) or store.root.name.isdecimal()
    return store.root.parent if is_part and LocalStore(store.root.parent).exists(NAME) else None


def _is_comparison_folder(store: Store) -> bool:
    """Return whether a folder without a run holds a baseline.

    The folder's files, or a ``comparison.json`` in the folder above, identify a baseline.
    """
    for name in (plan.name(0), manifest.name(0)):
        # A baseline's files have an empty run id.
        with suppress(StorageError, CorruptShardFileError):
            shard_parquet.decode(store.read(name), [], ShardRef("", 0))
            return True
    if not isinstance(store, LocalStore):
        return False
    with suppress(StorageError, ValueError, TypeError, KeyError):
        ways = json.loads(LocalStore(store.root.parent).read(COMPARISON))["ways"]
        return any(Path(way["out"]).name == store.root.name for way in ways)
    return False


def _state_finding(run: _InspectedRun) -> Finding:
    record, store = run.record, run.store
    listed = "standard input" if record.source == url_list.STANDARD_INPUT else url_list.shown(record.source)
    found = f"{record.id} of {listed}"
    if run.producer is not None:
        return Finding("run", Level.OK, f"{found}: its producer is {run.producer.text}")
    if record.state is State.COMPLETE:
        return Finding("run", Level.OK, f"{found}: complete, {pluralized(record.planned_rows, 'image')}")
    if record.state is State.RUNNING:
        dead = lock.dead_holder(store)
        who = f", {dead.text}," if dead is not None else ""
        found = f"{found}: {NAME} says it is running, but its producer{who} is dead"
    elif record.state is State.REMOVING:
        todo = "Run the interrupted command with `--incremental overwrite` again, or remove the folder."
        return Finding("run", Level.WARN, f"{found}: some of its files are already removed", todo)
    else:
        found = f"{found}: {record.state}"
    return Finding("run", Level.WARN, found, f"Resume it with `{resume_command(store)}`.")


def _failure_findings(record: RunFile, store: Store) -> list[Finding]:
    """Report the failed images of a complete run, from the totals in its run.json."""
    totals = record.totals or {}
    if record.state is not State.COMPLETE or not totals.get("failed"):
        return []
    again = sum(number for reason, number in totals["reasons"].items() if reason in WORTH_RETRYING)
    failed = f"{totals['failed']:,} of {pluralized(totals['total'], 'image')} failed"
    found = f"{failed}, {again:,} of them for reasons worth a retry"
    if not again:
        return [Finding("failures", Level.OK, found)]
    return [Finding("failures", Level.WARN, found, f"Retry them with `{continue_command('retry', store)}`.")]


@dataclass(frozen=True, slots=True)
class _ReadResult:
    """The result of reading one file per shard: the number of files read, the number of all files, and the errors."""

    read: int
    total: int
    broken: dict[int, CommandError]

    def text(self, found: str, name: Callable[[int], str]) -> str:
        """Return a finding that has the number of checked files and the names of the unusable files."""
        if not self.total:
            return found
        checked = "all checked" if self.read == self.total else f"{self.read:,} checked within {_READ_SECONDS:g} s"
        if not self.broken:
            return f"{found}, {checked}"
        return f"{found}, {checked}, {len(self.broken):,} unusable: {list_names(map(name, self.broken))}"


def _read_files(shards: Iterable[int], read: Callable[[int], object]) -> _ReadResult:
    """Read the files of shards in scrambled order, for a limited time. So only a sample of a large run is checked."""
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
        except CommandError as error:
            broken[shard] = error
    return _ReadResult(number, len(listed), broken)


def _plan_finding(run: _InspectedRun, gone: list[int], reading: _ReadResult, needed: Level) -> Finding:
    """Report missing and unusable plan files.

    If these files can't be rebuilt from the list, the finding has the level ``needed``.
    """
    record = run.record
    found = reading.text(f"{pluralized(run.shards, 'shard')} planned", plan.name)
    listed = url_list.shown(record.source)
    unchanged = url_list.is_unchanged(record.source, record.fingerprint)
    explained = url_list.explain_difference(record.source)
    if min([*gone, *reading.broken], default=run.shards) < record.earlier_shards:
        unchanged, explained = False, "the shard is from an earlier list, before the run was extended"
    if gone:
        found = f"{found}; {len(gone):,} missing: {list_names(map(plan.name, gone))}"
    if gone or reading.broken:
        if unchanged:
            return Finding(
                "plan", Level.WARN, found, f"Run `{resume_command(run.store)}` to rebuild the plan from {listed}."
            )
        todo = f"Restore a good copy. The plan can't be rebuilt: {explained}."
        return Finding("plan", needed, found, todo)
    if record.plan is PlanState.OPEN and run.producer is None:
        found = f"{found}; the URL list was not fully read"
        if not unchanged:
            todo = "Restore the original list, or download its unplanned part into another folder."
            return Finding("plan", Level.WARN, f"{found}, and {explained}", todo)
    return Finding("plan", Level.OK, found)


def _manifests_finding(run: _InspectedRun, reading: _ReadResult) -> Finding:
    found = reading.text(f"{reading.total:,} of {pluralized(run.shards, 'shard')} done", manifest.name)
    if reading.broken:
        error = next(iter(reading.broken.values()))
        found = f"{found} ({error.why})"
        todo = (
            f"Restore a good copy. Or remove the file and run `{resume_command(run.store)}` to repeat that shard. "
            "Images saved as files are not downloaded again."
        )
        return Finding("manifests", Level.BAD, found, todo)
    if reading.total < run.shards and run.producer is None and run.record.state is State.COMPLETE:
        return Finding(
            "manifests", Level.WARN, found, f"Run `{resume_command(run.store)}` to rebuild the missing manifests."
        )
    return Finding("manifests", Level.OK, found)


def _images_finding(record: RunFile, store: Store, missing: Mapping[int, int]) -> Finding:
    """Report, for each shard, the number of images in its manifest whose files are missing on disk."""
    lacking = list_names(f"{shard_name(shard)} ({number:,})" for shard, number in missing.items())
    found = f"{pluralized(sum(missing.values()), 'image')} listed in manifests are missing, in shards {lacking}"
    first = next(iter(missing))
    packed = packed_name(first, record.options.output)
    if packed is not None:
        todo = (
            f"Restore {packed}; no other command checks it. Or remove it and the manifest of its shard "
            f"({manifest.name(first)}), and run `{resume_command(store)}` to download that shard again."
        )
        return Finding("images", Level.WARN, found, todo)
    resized = record.options.fetch.resize.encodes
    todo = (
        "Restore the images; no other command checks for them. Or remove the manifest of such a shard "
        f"({manifest.name(first)}) and run `{resume_command(store)}` to repeat that shard. Its saved "
        f"images are kept{'' if resized else ', and not downloaded again'}."
    )
    return Finding("images", Level.WARN, found, todo)
