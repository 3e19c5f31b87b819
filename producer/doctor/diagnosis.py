"""The doctor: what it finds of settings, broker, workers, clocks and the output folder, and what to do about it.

It judges what it has asked; the functions that ask are below those that judge, and what is found of a folder here and
of the run in it is in ``producer/doctor/folder_checks.py``. It ends with findings, whatever is broken, and changes
nothing: of the file that it leaves in the output folder for the workers to see, nothing stays.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from kombu.exceptions import OperationalError

from config import SettingsError
from config.settings import settings, unknown_variables
from producer.dispatch import workers as worker_queries
from producer.dispatch.workers import MAX_SKEW_SECONDS, WorkerInfo, clock_ahead
from producer.doctor import folder_checks
from producer.doctor.finding import Finding, Level, finding_from_error
from producer.formatting import format_mebibytes, named, pluralized
from producer.local_fleet.fleet import FleetSize, check_size, cores, server_binary
from tasks.broker import client as broker_client
from tasks.broker import keys
from tasks.broker.redis_errors import redis_problem
from tasks.celery import IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE, use_broker
from tasks.download import network_settings
from tasks.download.guard import Guard
from tasks.errors import CommandError, FetchError
from tasks.redaction import redacted
from tasks.storage import folder_probe
from tasks.storage.folder_probe import ProbeResult
from tasks.storage.store import Store

#: The oldest server that has all commands that the transport uses.
_MIN_VERSION = (6, 2)
#: How full a server's memory may be.
_FULL_MEMORY_RATIO = 0.8
#: Seconds for which a worker's answer is waited for after the last one: to who it is, and to how it sees a folder.
_INFO_SECONDS, _PROBE_SECONDS = 2.0, 10.0
#: Seconds within which a proxy has to let itself be connected to.
_PROXY_SECONDS = 3.0
_START_HINT = (
    "Start one: `celery -A tasks worker`, with IMAGEFLEET_BROKER_URL and IMAGEFLEET_STORE_ROOTS set, or "
    "`docker compose up -d`."
)
#: No run has this id.
_NO_RUN = "none"
_CONF_HINT = "config/redis.conf has the settings that imagefleet is run with."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found; ``broker`` is redacted, and None where a command would start a local fleet."""

    broker: str | None
    out: Path | None
    findings: Sequence[Finding]

    @property
    def healthy(self) -> bool:
        """Whether nothing is bad."""
        return all(finding.level is not Level.BAD for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` shows."""
        return {
            "healthy": self.healthy,
            "broker": self.broker,
            "out": None if self.out is None else str(self.out),
            "findings": [asdict(finding) for finding in self.findings],
        }


def diagnose(url: str | None, out: Path | None) -> Diagnosis:
    """Look at everything.

    Args:
        url: the broker's; None for the environment's, or a local fleet where that names none.
        out: an output folder to look at, here and from the workers; None for none.

    Raises:
        SettingsError: what the environment says of the broker can't be used.
    """
    url = url or settings().broker
    with _probe_folder(out) as examined:
        findings = [
            *_unknown_variable_findings(),
            *_network_setting_findings(url is None),
            *(_local_fleet_findings() if url is None else _broker_findings(url, examined)),
            *examined.findings,
        ]
    return Diagnosis(None if url is None else redacted(url), examined.path, findings)


# What is judged.


def server_findings(info: Mapping[str, Any]) -> list[Finding]:
    """Judge what a server says of itself; what it may not say is unknown."""
    return [_version_finding(info), _append_only_finding(info), _policy_finding(info), _memory_finding(info)]


def connections_finding(info: Mapping[str, Any], workers: int) -> Finding:
    """Judge how many more clients a server takes, with so many workers at it."""
    name, free = "connections", broker_client.free_connections(info)
    if free is None:
        return _unknown_finding(name, "INFO", "Look at `maxclients` there.")
    needed = broker_client.PRODUCER_CONNECTIONS + workers * broker_client.MORE_CONNECTIONS
    found = f"{info['connected_clients']} of {info['maxclients']} in use"
    if free < needed:
        return Finding(name, Level.BAD, f"{found}; a run needs about {needed} more", broker_client.MORE_CLIENTS_HINT)
    return Finding(name, Level.OK, found)


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


def _version_finding(info: Mapping[str, Any]) -> Finding:
    said = str(info.get("redis_version", ""))
    number = re.match(r"(\d+)\.(\d+)", said)
    if number is None:
        return _unknown_finding("server version", "INFO", f"It has to be Redis {_dotted(_MIN_VERSION)} or newer.")
    shown = f"Redis {said}"
    if "valkey_version" in info:
        shown = f"Valkey {info['valkey_version']} (as Redis {said})"
    if (int(number[1]), int(number[2])) < _MIN_VERSION:
        return Finding(
            "server version", Level.BAD, shown, f"Install Redis {_dotted(_MIN_VERSION)} or newer, or Valkey."
        )
    if info.get("redis_mode") == "cluster":
        todo = "Use a Redis that is no cluster: Celery can't."
        return Finding("server version", Level.BAD, f"{shown}, as a cluster", todo)
    return Finding("server version", Level.OK, shown)


def _append_only_finding(info: Mapping[str, Any]) -> Finding:
    name = "append-only file"
    if "aof_enabled" not in info:
        return _unknown_finding(name, "INFO", f"Set `appendonly yes`; {_CONF_HINT}")
    if not int(info["aof_enabled"]):
        found = "off: what is queued is lost when the server restarts"
        return Finding(name, Level.WARN, found, f"Set `appendonly yes`; {_CONF_HINT}")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(name, Level.BAD, "on, and the last write to it failed", "Look at the server's disk and its log.")
    return Finding(name, Level.OK, "on")


def _policy_finding(info: Mapping[str, Any]) -> Finding:
    name = "eviction policy"
    if "maxmemory_policy" not in info:
        return _unknown_finding(name, "INFO", f"Set `maxmemory-policy noeviction`; {_CONF_HINT}")
    policy = str(info["maxmemory_policy"])
    if policy != "noeviction":
        found = f"{policy}: what is queued may be dropped when memory is short"
        return Finding(name, Level.BAD, found, f"Set `maxmemory-policy noeviction`; {_CONF_HINT}")
    return Finding(name, Level.OK, policy)


def _memory_finding(info: Mapping[str, Any]) -> Finding:
    if "used_memory" not in info:
        return _unknown_finding("memory", "INFO", "Look at the server's memory there.")
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if not most:
        return Finding("memory", Level.OK, f"{format_mebibytes(used)} used, no limit set")
    found = f"{format_mebibytes(used)} of {format_mebibytes(most)} used ({used / most:.0%})"
    if used > _FULL_MEMORY_RATIO * most:
        return Finding(
            "memory", Level.WARN, found, "Raise `maxmemory`, or use a smaller --window: a full server refuses."
        )
    return Finding("memory", Level.OK, found)


def _unknown_finding(name: str, command: str, todo: str) -> Finding:
    return Finding(name, Level.WARN, f"unknown: the server does not tell by {command}", todo)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# What is asked.


@dataclass(frozen=True, slots=True)
class _ProbedFolder:
    """An output folder for the time of a diagnosis; ``token`` is None where no file could be left in it."""

    path: Path | None
    token: str | None
    findings: Sequence[Finding]


@contextmanager
def _probe_folder(out: Path | None) -> Iterator[_ProbedFolder]:
    """Give the folder with a file left in it; what was made of it is removed at the end."""
    if out is None:
        yield _ProbedFolder(None, None, [])
        return
    name = "folder here"
    made: list[Path] = []
    store, token = Store(out.absolute()), folder_probe.new_token()
    try:
        store = Store(out.resolve())
        for path in reversed([store.root, *store.root.parents]):
            if not path.exists():
                path.mkdir()
                made.append(path)
        folder_probe.write_probe(store, token)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        todo = "Choose a folder that you may write to, on a disk that has space."
        findings = [Finding(name, Level.BAD, f"{store.root} can't be written: {why}", todo)]
        found = _ProbedFolder(
            store.root, None, findings + (folder_checks.inspect_folder(store) if store.root.is_dir() else [])
        )
    else:
        if made:
            about = f"{store.root} is not there; `producer run` can make it"
            todo = "If a run should be there, give the folder that --out named when it was begun."
            findings = [Finding(name, Level.WARN, about, todo), *folder_checks.space_findings(store)]
        else:
            findings = [Finding(name, Level.OK, f"{store.root} can be written"), *folder_checks.inspect_folder(store)]
        found = _ProbedFolder(store.root, token, findings)
    try:
        yield found
    finally:
        folder_probe.remove_probe(store, token)
        for path in reversed(made):
            # Somebody else may have begun to use it.
            with suppress(OSError):
                path.rmdir()


def _unknown_variable_findings() -> list[Finding]:
    """Name the variables of the environment that look like ours and are not."""
    unknown = unknown_variables(os.environ)
    if not unknown:
        return []
    todo = "Correct the names, or unset the variables; docs/settings.md has all names."
    return [Finding("unknown settings", Level.WARN, f"nothing reads {', '.join(unknown)}", todo)]


def _network_setting_findings(local: bool) -> list[Finding]:
    """Look at what the environment says of the network; nothing is found where it says nothing.

    Args:
        local: whether it is a local fleet's; the workers at a broker have environments of their own.
    """
    name, variables = "settings", network_settings.configured_variables()
    if not variables:
        return []
    wrong = [str(trouble) for trouble in network_settings.validate()]
    try:
        proxy = network_settings.proxy()
        if proxy is not None:
            Guard().connect_to_proxy(proxy.host, proxy.port, _PROXY_SECONDS).close()
    except SettingsError:
        # It is among the troubles.
        pass
    except FetchError as error:
        wrong.append(f"IMAGEFLEET_PROXY: {error}")
    if not wrong:
        return [Finding(name, Level.OK, f"can be used: {', '.join(variables)}")]
    whose = "" if local else "; workers that are started with them, and `producer compare`, can't use them"
    todo = "Correct them, or unset them; see docs/settings.md."
    return [Finding(name, Level.BAD if local else Level.WARN, redacted("; ".join(wrong)) + whose, todo)]


def _local_fleet_findings() -> list[Finding]:
    try:
        binary = server_binary()
        check_size(FleetSize(len(cores())))
    except CommandError as fault:
        return [finding_from_error("local fleet", fault)]
    found = f"no broker is named: a command starts {binary} and {pluralized(len(cores()), 'worker')} for itself"
    return [Finding("local fleet", Level.OK, found)]


def _broker_findings(url: str, examined: _ProbedFolder) -> list[Finding]:
    ahead: dict[str, float] = {}
    try:
        with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
            server.ping()
            info = _query_or_none(server.info) or {}
            writes = _check_writes(server)
            sent = time.time()
            clock = _query_or_none(server.time)
            if clock is not None:
                ahead["Redis"] = clock_ahead(clock[0] + clock[1] / 1e6, sent, time.time())
        use_broker(url)
    except CommandError as fault:
        return [finding_from_error("broker", fault)]
    findings = [Finding("broker", Level.OK, f"{redacted(url)} answers"), writes, *server_findings(info)]
    try:
        workers = worker_queries.ask_workers(_INFO_SECONDS)
        findings += [connections_finding(info, len(workers)), *workers_findings(workers)]
        ahead |= {worker.name: worker.skew for worker in workers if worker.skew is not None}
        findings.append(clocks_finding(ahead))
        if workers and examined.path is not None:
            findings += _ask_workers_about_folder(examined.path, examined.token, [worker.name for worker in workers])
    except (redis.RedisError, OperationalError, OSError) as error:
        problem = redis_problem(error)
        findings.append(Finding("workers", Level.BAD, f"they can't be asked: {problem.text}", problem.hint))
    return findings


def _check_writes(server: redis.Redis) -> Finding:
    """Return whether the server takes writes, by one that changes nothing: it is for a key that exists already."""
    try:
        server.set(keys.run(_NO_RUN), "", xx=True)
    except redis.RedisError as error:
        problem = redis_problem(error)
        waits = "; a run waits two minutes for it" if problem.temporary else ""
        return Finding("writes", Level.BAD, f"Redis answers: {problem.text.rstrip('.')}{waits}", problem.hint)
    return Finding("writes", Level.OK, "Redis takes them")


def _query_or_none(command: Callable[[], Any]) -> Any:
    """Return what a command of the server answers; None if the broker's user may not use it."""
    try:
        return command()
    except redis.exceptions.NoPermissionError:
        return None


def _ask_workers_about_folder(out: Path, token: str | None, names: Sequence[str]) -> list[Finding]:
    """Ask the workers how they see a folder."""
    if token is None:
        found = "unknown: without a file that is left here, no worker can tell whether it sees the same folder"
        return [Finding("folder at workers", Level.WARN, found, "Mend the folder here first.")]
    return worker_folder_findings(out, worker_queries.probe_folder_at_workers(out, token, names, _PROBE_SECONDS))
