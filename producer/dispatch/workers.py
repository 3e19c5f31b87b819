"""Ask the workers at a broker about themselves, and whether they can save the images of a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from kombu.exceptions import OperationalError

from config import limits
from config.locations import Location
from producer.dispatch.unfit_workers import UnfitWorker
from producer.formatting import list_names
from tasks.broker import liveness
from tasks.broker.redis_errors import redis_problem
from tasks.celery import PROBE_FOLDER, PROTOCOL, WORKER_INFO, app
from tasks.errors import StorageError, UsageError
from tasks.file_descriptors import max_slots
from tasks.storage import folder_probe
from tasks.storage.folder_probe import ProbeResult
from tasks.storage.locations import open_store

_log = logging.getLogger(__name__)
#: The largest harmless difference between clocks, in seconds.
MAX_SKEW_SECONDS = 2.0
SHARE_HINT = "Give workers and producer the same shared folder under the same path; see docs/many-machines.md."
CROWDED_HINT = (
    "Start them with a smaller -c (--concurrency), or raise the limit: `ulimit -n`, or LimitNOFILE= in systemd."
)
#: Seconds to wait before a run for the workers' replies: first about themselves, then about the run's folder.
_INFO_SECONDS, _PROBE_SECONDS = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker's reply about itself. A field is None if the worker's version is too old to send it."""

    name: str
    version: str
    protocol: int | None
    slots: int
    queues: tuple[str, ...] | None = None
    store_roots: tuple[str, ...] | None = None
    #: Seconds by which the worker's clock is certainly ahead of ours; negative if it is behind.
    skew: float | None = None
    #: Whether the worker may skip the verification of server certificates (``--insecure``).
    insecure_tls: bool = False
    #: Problems found by the worker itself that keep it from working.
    troubles: tuple[str, ...] = ()
    #: The worker's limit of open file descriptors.
    descriptors: int | None = None
    #: The store roots that do not exist on the worker's machine.
    missing_store_roots: tuple[str, ...] = ()

    @property
    def has_room(self) -> bool:
        """Whether the worker has enough file descriptors to download in all slots at the same time; True if unknown."""
        return self.descriptors is None or self.slots <= max_slots(self.descriptors)


@dataclass(frozen=True, slots=True)
class WorkerSurvey:
    """The workers that replied before a run started, grouped by whether they are fit for it."""

    #: Workers that can save the run's images.
    fit: Sequence[WorkerInfo] = ()
    #: Workers that can't save the run's images. These workers take no images. The other workers fetch all images.
    unfit: Sequence[UnfitWorker] = ()
    #: Workers of an incompatible version, which take none of the run's tasks.
    others: Sequence[WorkerInfo] = ()
    #: Whether the run skips the verification of server certificates.
    insecure: bool = False

    def warnings(self) -> list[str]:
        """Return warnings for the user before the run, one sentence each."""
        found = []
        if self.others:
            shown = list_names(f"{worker.name} ({worker.version})" for worker in self.others)
            found.append(f"ignoring workers with an incompatible version: {shown}")
        if self.unfit:
            found.append(
                f"some workers can't save images of this run, and leave it to others: {_group_by_trouble(self.unfit)}"
            )
        if self.insecure and (strict := [worker.name for worker in self.fit if not worker.insecure_tls]):
            found.append(
                f"some workers lack IMAGEFLEET_ALLOW_INSECURE_TLS, and verify all servers: {list_names(strict)}"
            )
        if troubled := [f"{worker.name} ({'; '.join(worker.troubles)})" for worker in self.fit if worker.troubles]:
            found.append(f"some workers have problems, and take no tasks until they recover: {list_names(troubled)}")
        if skewed := [worker for worker in self.fit if abs(worker.skew or 0.0) > MAX_SKEW_SECONDS]:
            shown = list_names(f"{worker.name} ({worker.skew:+.1f} s)" for worker in skewed)
            found.append(f"clocks of workers differ from the clock of this machine: {shown}. Synchronise them by NTP")
        if crowded := [worker for worker in self.fit if not worker.has_room]:
            found.append(f"{describe_crowded(crowded)}. {CROWDED_HINT}")
        return found


def describe_crowded(crowded: Sequence[WorkerInfo]) -> str:
    """Return a text about the workers that have too few file descriptors for their slots."""
    shown = list_names(f"{worker.name} ({worker.slots} slots, {worker.descriptors} descriptors)" for worker in crowded)
    return f"workers have more slots than their limit of open files allows: {shown}"


def survey_workers(out: Location, insecure: bool = False) -> WorkerSurvey:
    """Return the workers at the app's broker, grouped by whether they can save a run's images in a folder.

    Args:
        out: the folder.
        insecure: whether the run skips the verification of server certificates.

    Raises:
        UsageError: of the workers that reply, none can save images, or none allows ``insecure``.
    """
    replying = ask_workers(_INFO_SECONDS)
    ours = [worker for worker in replying if worker.protocol == PROTOCOL]
    others = [worker for worker in replying if worker.protocol != PROTOCOL]
    troubles = _find_troubles(out, ours) if ours else {}
    unfit = [UnfitWorker(name, result.error) for name, result in troubles.items()]
    if ours and len(troubles) == len({worker.name for worker in ours}):
        raise UsageError(
            f"No worker can save images in {out}",
            _group_by_trouble(unfit),
            " ".join(dict.fromkeys(map(folder_hint, troubles.values()))),
        )
    fit = [worker for worker in ours if worker.name not in troubles]
    if insecure and fit and not any(worker.insecure_tls for worker in fit):
        raise UsageError(
            "No worker allows --insecure",
            f"IMAGEFLEET_ALLOW_INSECURE_TLS is not set for {list_names(worker.name for worker in fit)}",
            "Set IMAGEFLEET_ALLOW_INSECURE_TLS=true in the workers' environment, or omit --insecure.",
        )
    return WorkerSurvey(fit, unfit, others, insecure)


def _find_troubles(out: Location, workers: Sequence[WorkerInfo]) -> dict[str, ProbeResult]:
    """Return the probe results of the workers that can't use a folder, by worker name.

    A worker that doesn't reply may be busy, so it is left out.
    """
    if isinstance(out, Path):
        # `compare` creates the folder later, so probe its nearest existing parent folder.
        out = next(folder for folder in (out, *out.parents) if folder.is_dir())
    store = open_store(out)
    token = folder_probe.new_token()
    try:
        folder_probe.write_probe(store, token)
        results = probe_folder_at_workers(store.location, token, [worker.name for worker in workers], _PROBE_SECONDS)
    except (OSError, StorageError):
        # The folder is not writable here. The command that creates the folder later reports this error.
        return {}
    finally:
        folder_probe.remove_probe(store, token)
    return {name: result for name, result in results.items() if result is not None and not result.writable}


def folder_hint(result: ProbeResult) -> str:
    """Return advice for a folder that a worker can't use."""
    if not result.allowed:
        return "Set IMAGEFLEET_STORE_ROOTS for the worker to a parent of this folder, or choose another --out."
    if not result.same:
        return f"{SHARE_HINT} All of them must write as the same user."
    return "Give the worker's user permission to write there, and make sure the disk has space."


def ask_workers(seconds: float) -> list[WorkerInfo]:
    """Return the workers that reply, ordered by name.

    Args:
        seconds: the time to wait after the last reply.
    """
    sent = time.time()
    workers: list[WorkerInfo] = []

    def take_reply(reply: Mapping[str, Any]) -> None:
        received = time.time()
        workers.extend(_parse_worker_info(name, about, sent, received) for name, about in reply.items())

    app.control.broadcast(WORKER_INFO, reply=True, timeout=seconds, callback=take_reply)
    return sorted(workers, key=lambda worker: worker.name)


def probe_folder_at_workers(
    out: str, token: str, names: Sequence[str], seconds: float
) -> dict[str, ProbeResult | None]:
    """Let each worker probe a folder that holds a probe file.

    For each worker, return its result, or None if it gave no valid reply.

    Args:
        out: the location of the folder.
        token: the token in the probe file's name.
        names: the workers' names.
        seconds: the time to wait after the last reply.
    """
    question = {"out": out, "token": token}
    results: dict[str, ProbeResult | None] = dict.fromkeys(names)
    silent = set(names)

    def take_reply(reply: Mapping[str, Any]) -> None:
        for name, said in reply.items():
            with suppress(KeyError, TypeError, ValueError):
                results[name] = ProbeResult.from_json(said)
            silent.discard(name)
        if not silent:
            raise _AllRepliedError

    # The `limit` of `broadcast` counts messages, and one message may bring several replies. So an exception ends the
    # wait instead.
    with suppress(_AllRepliedError):
        app.control.broadcast(PROBE_FOLDER, question, reply=True, timeout=seconds, callback=take_reply)
    return {name: results[name] for name in names}


def describe_workers(local: bool, images: int, server: redis.Redis) -> str:
    """Return a note on the workers of an idle run.

    The note includes advice, unless a local fleet restarts the workers.
    """
    waiting = "waiting for 1 image" if images == 1 else f"waiting for {images:,} images"
    try:
        slots = online_workers()
        dead = sum(not lives for lives in liveness.worker_liveness(server).values())
    except (redis.RedisError, OperationalError) as error:
        # Redis may have restarted since the last question and closed this idle connection.
        return f"{waiting}; can't ask the workers: {redis_problem(error).note}"
    if not slots and local:
        return f"{waiting}; no worker responds: the local fleet is restarting its workers"
    if not slots:
        return f"{waiting}; no worker responds: start one with `celery -A tasks worker`, or `docker compose up -d`"
    some = f"{waiting}; {len(slots)} workers respond" if len(slots) > 1 else f"{waiting}; 1 worker responds"
    if not dead:
        return some
    died = f"{dead} workers have died, and their tasks are" if dead > 1 else "1 worker has died, and its tasks are"
    return f"{some}; {died} requeued within {limits.REDELIVERY_SECONDS} s"


def online_workers() -> list[int]:
    """Return the number of slots of each compatible worker that replies within a second."""
    replies = app.control.broadcast(WORKER_INFO, reply=True, timeout=1.0) or []
    workers = {name: about for reply in replies for name, about in reply.items()}
    others = {name: about for name, about in workers.items() if about.get("protocol") != PROTOCOL}
    if others:
        named = ", ".join(f"{name} ({about.get('version', 'unknown')})" for name, about in sorted(others.items()))
        _log.warning("ignoring workers with an incompatible version: %s", named)
    return [about["slots"] for name, about in workers.items() if name not in others]


def clock_ahead(there: float, sent: float, received: float) -> float:
    """Return the seconds by which another machine's clock is certainly ahead of ours; negative if it is behind.

    Args:
        there: the other clock's time, read between ``sent`` and ``received``.
        sent: our time before the reading.
        received: our time after the reading.
    """
    # A correct clock shows a time between ``sent`` and ``received``, however long the reply took.
    return max(0.0, there - received) + min(0.0, there - sent)


class _AllRepliedError(Exception):
    """Every worker has replied."""


def _group_by_trouble(unfit: Sequence[UnfitWorker]) -> str:
    """For each problem, return the names of the workers that have it."""
    by_trouble: dict[str, list[str]] = {}
    for worker in unfit:
        by_trouble.setdefault(worker.why, []).append(worker.name)
    return "; ".join(f"{list_names(names)}: {why}" for why, names in by_trouble.items())


def _parse_worker_info(name: str, about: Any, sent: float, received: float) -> WorkerInfo:
    """Parse a reply about a worker. The worker may have any version of imagefleet, or run other software."""
    said = about if isinstance(about, dict) else {}
    queues, roots, clock, slots = (said.get(key) for key in ("queues", "store_roots", "time", "slots"))
    troubles = said.get("troubles")
    descriptors, missing = said.get("descriptors"), said.get("missing_store_roots")
    return WorkerInfo(
        name,
        str(said.get("version", "unknown")),
        said.get("protocol"),
        slots if isinstance(slots, int) else 0,
        tuple(map(str, queues)) if isinstance(queues, list) else None,
        tuple(map(str, roots)) if isinstance(roots, list) else None,
        clock_ahead(clock, sent, received) if isinstance(clock, int | float) else None,
        said.get("insecure_tls") is True,
        tuple(map(str, troubles)) if isinstance(troubles, list) else (),
        descriptors if isinstance(descriptors, int) else None,
        tuple(map(str, missing)) if isinstance(missing, list) else (),
    )
