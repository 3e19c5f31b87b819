"""The doctor's checks of the workers: versions, queues, limits, clocks, and the output folder as they see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from producer.dispatch import workers as worker_queries
from producer.dispatch.workers import MAX_SKEW_SECONDS, WorkerInfo
from producer.doctor import folder_checks
from producer.doctor.finding import Finding, Level
from producer.formatting import named, pluralized
from tasks.celery import IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE
from tasks.storage.folder_probe import ProbeResult

#: Seconds to wait for another worker's answer about the folder, counted from the last answer.
_PROBE_SECONDS = 10.0
_START_HINT = (
    "Start one: `celery -A tasks worker`, with IMAGEFLEET_BROKER_URL and IMAGEFLEET_STORE_ROOTS set, or "
    "`docker compose up -d`."
)


def workers_findings(workers: Sequence[WorkerInfo]) -> list[Finding]:
    """Judge who works at a broker."""
    ours = [worker for worker in workers if worker.protocol == PROTOCOL]
    others = [worker for worker in workers if worker.protocol != PROTOCOL]
    findings = []
    if ours:
        slots = sum(worker.slots for worker in ours)
        shown = named(f"{worker.name} ({worker.version}, {worker.slots} slots)" for worker in ours)
        findings.append(Finding("workers", Level.OK, f"{pluralized(len(ours), 'worker')}, {slots} slots: {shown}"))
    else:
        found = "none of them takes what this version sends" if others else "no worker answers"
        findings.append(Finding("workers", Level.BAD, found, _START_HINT))
    if others:
        shown = named(f"{worker.name} ({worker.version})" for worker in others)
        todo = "Start workers of this version; the others may stay for the runs of theirs."
        findings.append(Finding("versions", Level.WARN, f"workers of another version take nothing: {shown}", todo))
    said = [worker for worker in ours if worker.queues is not None]
    if said and len(said) == len(ours):
        taken = {queue for worker in said for queue in worker.queues or ()}
        if missing := [queue for queue in (IMAGE_QUEUE, SHARD_QUEUE) if queue not in taken]:
            todo = "Start a worker without -Q (--queues) and -X (--exclude-queues)."
            findings.append(Finding("queues", Level.BAD, f"no worker takes from {', '.join(missing)}", todo))
        else:
            findings.append(Finding("queues", Level.OK, f"{IMAGE_QUEUE} and {SHARD_QUEUE} are taken from"))
    if troubled := [f"{worker.name} ({'; '.join(worker.troubles)})" for worker in ours if worker.troubles]:
        todo = "Mend it where they run; each tries one task now and then, and goes on when that works."
        findings.append(Finding("unfit workers", Level.WARN, f"they leave work to others: {named(troubled)}", todo))
    if crowded := [worker for worker in ours if not worker.has_room]:
        findings.append(
            Finding("open files", Level.BAD, worker_queries.describe_crowded(crowded), worker_queries.CROWDED_HINT)
        )
    if idle := [worker.name for worker in ours if worker.store_roots == ()]:
        todo = "Set IMAGEFLEET_STORE_ROOTS where they run: the folders below which a worker may write."
        findings.append(Finding("store roots", Level.BAD, f"workers that may save nothing: {named(idle)}", todo))
    return findings


def clocks_finding(ahead: Mapping[str, float]) -> Finding:
    """Judge the clocks by the seconds that each is ahead of ours, by whose it is; those behind are negative."""
    everybody = {"this machine": 0.0, **ahead}
    first, last = max(everybody, key=everybody.__getitem__), min(everybody, key=everybody.__getitem__)
    apart = everybody[first] - everybody[last]
    if not ahead:
        return Finding("clocks", Level.WARN, "unknown: no other clock could be read", "Let NTP set them on all hosts.")
    if apart > MAX_SKEW_SECONDS:
        found = f"{first} is {apart:.1f} s ahead of {last}"
        return Finding("clocks", Level.WARN, found, "Let NTP set the clocks of all hosts.")
    return Finding(
        "clocks", Level.OK, f"{pluralized(len(everybody), 'clock')} within {MAX_SKEW_SECONDS:g} s of each other"
    )


def worker_folder_findings(out: Path, seen: Mapping[str, ProbeResult | None]) -> list[Finding]:
    """Judge what each worker has said of an output folder; None for one that has not understood."""
    name = "folder at workers"
    findings = []
    if fit := [worker for worker, what in seen.items() if what is not None and what.writable]:
        found = f"{out} is the same folder, and writable: {named(fit)}"
        findings.append(Finding(name, Level.OK, found))
    if silent := [worker for worker, what in seen.items() if what is None]:
        findings.append(
            Finding(name, Level.WARN, f"unknown: {named(silent)} can't tell", "Run one version everywhere.")
        )
    troubles: dict[tuple[str, str], list[str]] = {}
    for worker, what in seen.items():
        if what is not None and not what.writable:
            troubles.setdefault((what.error, worker_queries.folder_hint(what)), []).append(worker)
    for (error, todo), workers in troubles.items():
        # A run goes on with the others.
        findings.append(Finding(name, Level.WARN if fit else Level.BAD, f"{named(workers)}: {error}", todo))
    known = {worker: what.free for worker, what in seen.items() if what is not None and what.free is not None}
    if known:
        worker = min(known, key=known.__getitem__)
        scarce = folder_checks.space_finding(f"disk at {worker}", known[worker])
        findings += [scarce] if scarce.level is not Level.OK else []
    return findings


def ask_workers_about_folder(out: Path, token: str | None, names: Sequence[str]) -> list[Finding]:
    """Ask the workers how they see a folder."""
    if token is None:
        found = "unknown: without a file that is left here, no worker can tell whether it sees the same folder"
        return [Finding("folder at workers", Level.WARN, found, "Mend the folder here first.")]
    return worker_folder_findings(out, worker_queries.probe_folder_at_workers(out, token, names, _PROBE_SECONDS))
