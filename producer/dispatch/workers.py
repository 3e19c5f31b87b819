"""The workers at a broker: what each says of itself, and which of them can save the images of a run."""

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
from producer.dispatch.unfit_workers import UnfitWorker
from producer.formatting import list_names
from tasks.broker import liveness
from tasks.broker.redis_errors import redis_problem
from tasks.celery import PROBE_FOLDER, PROTOCOL, WORKER_INFO, app
from tasks.errors import UsageError
from tasks.file_descriptors import max_slots
from tasks.storage import folder_probe
from tasks.storage.folder_probe import ProbeResult
from tasks.storage.store import Store

_log = logging.getLogger(__name__)
#: Seconds by which clocks may differ.
MAX_SKEW_SECONDS = 2.0
SHARE_HINT = "Give workers and producer the same shared folder under the same path; see docs/many-machines.md."
CROWDED_HINT = (
    "Start them with a smaller -c (--concurrency), or raise the limit: `ulimit -n`, or LimitNOFILE= in systemd."
)
#: Seconds to wait for the workers' answers before a run: to who they are, and to how they see its folder.
_INFO_SECONDS, _PROBE_SECONDS = 1.0, 5.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker has said of itself; None for what one of an older version does not say."""

    name: str
    version: str
    protocol: int | None
    slots: int
    queues: tuple[str, ...] | None = None
    store_roots: tuple[str, ...] | None = None
    #: Seconds by which its clock is surely ahead of ours, or behind.
    skew: float | None = None
    #: Whether it may do without the verification of servers (``--insecure``).
    insecure_tls: bool = False
    #: What keeps it from doing its work, as it has noticed itself.
    troubles: tuple[str, ...] = ()
    #: How many file descriptors it may have open.
    descriptors: int | None = None

    @property
    def has_room(self) -> bool:
        """Whether all its slots can download at the same time, as far as is known."""
        return self.descriptors is None or self.slots <= max_slots(self.descriptors)


@dataclass(frozen=True, slots=True)
class WorkerSurvey:
    """The workers that answered before a run, by what they can do for it."""

    #: Those that can save its images.
    fit: Sequence[WorkerInfo] = ()
    #: Those that can't; they hand its images to the others.
    unfit: Sequence[UnfitWorker] = ()
    #: Those of a version that takes none of its tasks.
    others: Sequence[WorkerInfo] = ()
    #: Whether the run is to do without the verification of servers.
    insecure: bool = False

    def warnings(self) -> list[str]:
        """Return what a person should know before the run, a sentence each."""
        found = []
        if self.others:
            shown = list_names(f"{worker.name} ({worker.version})" for worker in self.others)
            found.append(f"workers of another version take nothing of this run: {shown}")
        if self.unfit:
            found.append(
                f"workers that can't save images of this run leave it to the others: {_group_by_trouble(self.unfit)}"
            )
        if self.insecure and (strict := [worker.name for worker in self.fit if not worker.insecure_tls]):
            found.append(f"workers without IMAGEFLEET_ALLOW_INSECURE_TLS verify all servers: {list_names(strict)}")
        if troubled := [f"{worker.name} ({'; '.join(worker.troubles)})" for worker in self.fit if worker.troubles]:
            found.append(
                f"workers have troubles, and leave work to others until these are over: {list_names(troubled)}"
            )
        if skewed := [worker for worker in self.fit if abs(worker.skew or 0.0) > MAX_SKEW_SECONDS]:
            shown = list_names(f"{worker.name} ({worker.skew:+.1f} s)" for worker in skewed)
            found.append(f"the clocks of workers differ from the one here: {shown}. Let NTP set them")
        if crowded := [worker for worker in self.fit if not worker.has_room]:
            found.append(f"{describe_crowded(crowded)}. {CROWDED_HINT}")
        return found


def describe_crowded(crowded: Sequence[WorkerInfo]) -> str:
    """Return what is wrong with workers whose slots have too few file descriptors."""
    shown = list_names(f"{worker.name} ({worker.slots} slots, {worker.descriptors} descriptors)" for worker in crowded)
    return f"workers have more slots than their limit of open files lets run at a time: {shown}"


def survey_workers(out: Path, insecure: bool = False) -> WorkerSurvey:
    """Return the workers at the app's broker, judged by whether they can save a run's images below a folder.

    Args:
        out: the folder.
        insecure: whether the run is to do without the verification of servers.

    Raises:
        UsageError: workers answer, and none of them can, or may.
    """
    answering = ask_workers(_INFO_SECONDS)
    ours = [worker for worker in answering if worker.protocol == PROTOCOL]
    others = [worker for worker in answering if worker.protocol != PROTOCOL]
    troubles = _find_troubles(out, ours) if ours else {}
    unfit = [UnfitWorker(name, seen.error) for name, seen in troubles.items()]
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
            f"IMAGEFLEET_ALLOW_INSECURE_TLS is not set at {list_names(worker.name for worker in fit)}",
            "Set IMAGEFLEET_ALLOW_INSECURE_TLS=true where the workers run, or leave --insecure out.",
        )
    return WorkerSurvey(fit, unfit, others, insecure)


def _find_troubles(out: Path, workers: Sequence[WorkerInfo]) -> dict[str, ProbeResult]:
    """Return what the workers say of a folder that they can't use, by their names; one that is silent may be busy."""
    # `compare` makes the folder later.
    store = Store(next(folder for folder in (out, *out.parents) if folder.is_dir()))
    token = folder_probe.new_token()
    try:
        folder_probe.write_probe(store, token)
        seen = probe_folder_at_workers(store.root, token, [worker.name for worker in workers], _PROBE_SECONDS)
    except OSError:
        # The command that made the folder tells what is wrong with it here.
        return {}
    finally:
        folder_probe.remove_probe(store, token)
    return {name: what for name, what in seen.items() if what is not None and not what.writable}


def folder_hint(seen: ProbeResult) -> str:
    """Return what to do about a folder that a worker can't use."""
    if not seen.allowed:
        return "Set IMAGEFLEET_STORE_ROOTS where it runs to a folder above, or choose another --out."
    if not seen.same:
        return f"{SHARE_HINT} All have to write as the same user."
    return "Let the worker's user write there, on a disk that has space."


def ask_workers(seconds: float) -> list[WorkerInfo]:
    """Return the workers that answer, in the order of their names.

    Args:
        seconds: how long to wait after the last answer.
    """
    sent = time.time()
    workers: list[WorkerInfo] = []

    def take_answer(answer: Mapping[str, Any]) -> None:
        received = time.time()
        workers.extend(_parse_worker_info(name, about, sent, received) for name, about in answer.items())

    app.control.broadcast(WORKER_INFO, reply=True, timeout=seconds, callback=take_answer)
    return sorted(workers, key=lambda worker: worker.name)


def probe_folder_at_workers(
    out: Path, token: str, names: Sequence[str], seconds: float
) -> dict[str, ProbeResult | None]:
    """Return how each worker sees a folder in which a file was left; None for one that did not answer, or not in form.

    Args:
        out: the folder.
        token: what the file is named by.
        names: the workers.
        seconds: how long to wait after the last answer.
    """
    question = {"out": str(out), "token": token}
    seen: dict[str, ProbeResult | None] = dict.fromkeys(names)
    silent = set(names)

    def take_answer(answer: Mapping[str, Any]) -> None:
        for name, said in answer.items():
            with suppress(KeyError, TypeError, ValueError):
                seen[name] = ProbeResult.from_json(said)
            silent.discard(name)
        if not silent:
            raise _AllAnsweredError

    # Its own limit counts arrivals, of which one may bring several answers, and then it waits for no one.
    with suppress(_AllAnsweredError):
        app.control.broadcast(PROBE_FOLDER, question, reply=True, timeout=seconds, callback=take_answer)
    return {name: seen[name] for name in names}


def describe_workers(local: bool, images: int, server: redis.Redis) -> str:
    """Return what the workers say when nothing moves, and what a person can do, unless a local fleet does it."""
    waiting = "waiting for 1 image" if images == 1 else f"waiting for {images:,} images"
    try:
        slots = online_workers()
        dead = sum(not lives for lives in liveness.worker_liveness(server).values())
    except (redis.RedisError, OperationalError) as error:
        # The connection that lay idle since the last question may have gone with a Redis that is back.
        return f"{waiting}; the workers can't be asked: {redis_problem(error).note}"
    if not slots and local:
        return f"{waiting}; no worker responds: the local fleet is starting them again"
    if not slots:
        return f"{waiting}; no worker responds: start one with `celery -A tasks worker`, or `docker compose up -d`"
    some = f"{waiting}; {len(slots)} workers respond" if len(slots) > 1 else f"{waiting}; 1 worker responds"
    if not dead:
        return some
    died = f"{dead} workers have died, and their tasks are" if dead > 1 else "1 worker has died, and its tasks are"
    return f"{some}; {died} handed to others within {limits.REDELIVERY_SECONDS} s"


def online_workers() -> list[int]:
    """Return the slots of each worker that answers within a second and takes what this version sends."""
    answers = app.control.broadcast(WORKER_INFO, reply=True, timeout=1.0) or []
    workers = {name: about for answer in answers for name, about in answer.items()}
    others = {name: about for name, about in workers.items() if about.get("protocol") != PROTOCOL}
    if others:
        named = ", ".join(f"{name} ({about.get('version', 'unknown')})" for name, about in sorted(others.items()))
        _log.warning("workers of another version take nothing of this run: %s", named)
    return [about["slots"] for name, about in workers.items() if name not in others]


def clock_ahead(there: float, sent: float, received: float) -> float:
    """Return the seconds by which a clock that was read in between is surely ahead of ours; negative if behind."""
    # However long the answer took, a clock that is right shows a time in between.
    return max(0.0, there - received) + min(0.0, there - sent)


class _AllAnsweredError(Exception):
    """Every worker has answered."""


def _group_by_trouble(unfit: Sequence[UnfitWorker]) -> str:
    """Return the names of workers, those with the same trouble together."""
    by_trouble: dict[str, list[str]] = {}
    for worker in unfit:
        by_trouble.setdefault(worker.why, []).append(worker.name)
    return "; ".join(f"{list_names(names)}: {why}" for why, names in by_trouble.items())


def _parse_worker_info(name: str, about: Any, sent: float, received: float) -> WorkerInfo:
    """Return what an answer says; it may be a worker's of any version, or none of ours at all."""
    said = about if isinstance(about, dict) else {}
    queues, roots, clock, slots = (said.get(key) for key in ("queues", "store_roots", "time", "slots"))
    troubles = said.get("troubles")
    descriptors = said.get("descriptors")
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
    )
