"""The doctor's checks of the workers: versions, queues, limits, clocks, and access to the output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from producer.dispatch import workers as worker_queries
from producer.dispatch.workers import MAX_SKEW_SECONDS, WorkerInfo
from producer.doctor import folder_checks
from producer.doctor.finding import Finding, Level
from producer.formatting import list_names, pluralized
from tasks.celery import IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE
from tasks.storage.folder_probe import ProbeResult

#: After a worker has answered about the folder, wait this many seconds for further workers.
_PROBE_SECONDS = 10.0
_CLOCK_HINT = "Synchronize the clocks of all hosts with NTP."
_START_HINT = (
    "Start a worker: `celery -A tasks worker`, with IMAGEFLEET_BROKER_URL and IMAGEFLEET_STORE_ROOTS set, or "
    "`docker compose up -d`."
)


def workers_findings(workers: Sequence[WorkerInfo]) -> list[Finding]:
    """Check the workers of a broker: their versions, queues, open files and store roots, and whether they are fit."""
    ours = [worker for worker in workers if worker.protocol == PROTOCOL]
    others = [worker for worker in workers if worker.protocol != PROTOCOL]
    findings = []
    if ours:
        slots = sum(worker.slots for worker in ours)
        shown = list_names(f"{worker.name} ({worker.version}, {worker.slots} slots)" for worker in ours)
        findings.append(Finding("workers", Level.OK, f"{pluralized(len(ours), 'worker')}, {slots} slots: {shown}"))
    else:
        found = "no worker accepts tasks of this version" if others else "no worker answers"
        findings.append(Finding("workers", Level.BAD, found, _START_HINT))
    if others:
        shown = list_names(f"{worker.name} ({worker.version})" for worker in others)
        todo = "Start workers of this version. The other workers can stay for runs of their own version."
        findings.append(Finding("versions", Level.WARN, f"workers with an incompatible version: {shown}", todo))
    reported = [worker for worker in ours if worker.queues is not None]
    if reported and len(reported) == len(ours):
        consumed = {queue for worker in reported for queue in worker.queues or ()}
        if missing := [queue for queue in (IMAGE_QUEUE, SHARD_QUEUE) if queue not in consumed]:
            todo = "Start a worker without -Q (--queues) and -X (--exclude-queues)."
            findings.append(Finding("queues", Level.BAD, f"no worker consumes {', '.join(missing)}", todo))
        else:
            findings.append(Finding("queues", Level.OK, f"workers consume {IMAGE_QUEUE} and {SHARD_QUEUE}"))
    if troubled := [f"{worker.name} ({'; '.join(worker.troubles)})" for worker in ours if worker.troubles]:
        todo = "Fix the cause on their hosts. Each tries a task from time to time, and resumes when one succeeds."
        findings.append(
            Finding("unfit workers", Level.WARN, f"they take no tasks at present: {list_names(troubled)}", todo)
        )
    if crowded := [worker for worker in ours if not worker.has_room]:
        findings.append(
            Finding("open files", Level.BAD, worker_queries.describe_crowded(crowded), worker_queries.CROWDED_HINT)
        )
    return findings + _store_root_findings(ours)


def _store_root_findings(workers: Sequence[WorkerInfo]) -> list[Finding]:
    """Check that the workers may write to a folder, and that these folders exist."""
    name, findings = "store roots", []
    if idle := [worker.name for worker in workers if worker.store_roots == ()]:
        found = f"these workers are not allowed to write to any folder: {list_names(idle)}"
        todo = "On the workers' hosts, set IMAGEFLEET_STORE_ROOTS to the folders that they may write to."
        findings.append(Finding(name, Level.BAD, found, todo))
    if lacking := [worker for worker in workers if worker.missing_store_roots]:
        shown = list_names(f"{worker.name} ({', '.join(worker.missing_store_roots)})" for worker in lacking)
        todo = "Create or mount the folders on the workers' hosts, or correct IMAGEFLEET_STORE_ROOTS there."
        findings.append(Finding(name, Level.WARN, f"workers whose folders do not exist: {shown}", todo))
    return findings


def clocks_finding(ahead: Mapping[str, float]) -> Finding:
    """Check whether all clocks agree.

    Args:
        ahead: for each owner of another clock, the seconds by which that clock is ahead of this machine's clock. The
            number is negative if that clock is behind.
    """
    clocks = {"this machine": 0.0, **ahead}
    first, last = max(clocks, key=clocks.__getitem__), min(clocks, key=clocks.__getitem__)
    apart = clocks[first] - clocks[last]
    if not ahead:
        return Finding("clocks", Level.WARN, "unknown: no other clock could be read", _CLOCK_HINT)
    if apart > MAX_SKEW_SECONDS:
        found = f"{first} is {apart:.1f} s ahead of {last}"
        return Finding("clocks", Level.WARN, found, _CLOCK_HINT)
    return Finding(
        "clocks", Level.OK, f"{pluralized(len(clocks), 'clock')} within {MAX_SKEW_SECONDS:g} s of each other"
    )


def worker_folder_findings(out: str, seen: Mapping[str, ProbeResult | None]) -> list[Finding]:
    """Check the output folder as each worker sees it; None stands for a worker that gave no usable answer."""
    name = "folder at workers"
    findings = []
    if fit := [worker for worker, result in seen.items() if result is not None and result.writable]:
        found = f"{out} is the same folder, and can be written: {list_names(fit)}"
        findings.append(Finding(name, Level.OK, found))
    if silent := [worker for worker, result in seen.items() if result is None]:
        findings.append(
            Finding(
                name,
                Level.WARN,
                f"unknown: no usable answer from {list_names(silent)}",
                "Run the same version everywhere.",
            )
        )
    troubles: dict[tuple[str, str], list[str]] = {}
    for worker, result in seen.items():
        if result is not None and not result.writable:
            troubles.setdefault((result.error, worker_queries.folder_hint(result)), []).append(worker)
    for (error, todo), workers in troubles.items():
        # If other workers are fit, this is only a warning, because a run can use the fit workers.
        findings.append(Finding(name, Level.WARN if fit else Level.BAD, f"{list_names(workers)}: {error}", todo))
    known = {worker: result.free for worker, result in seen.items() if result is not None and result.free is not None}
    if known:
        worker = min(known, key=known.__getitem__)
        scarce = folder_checks.space_finding(f"disk at {worker}", known[worker])
        findings += [scarce] if scarce.level is not Level.OK else []
    return findings


def ask_workers_about_folder(out: str, token: str | None, names: Sequence[str]) -> list[Finding]:
    """Ask the workers how they see a folder, and return the findings."""
    if token is None:
        found = "unknown: workers recognize the folder by a test file, which can't be written here"
        return [Finding("folder at workers", Level.WARN, found, "Make the folder writable on this machine first.")]
    return worker_folder_findings(out, worker_queries.probe_folder_at_workers(out, token, names, _PROBE_SECONDS))
