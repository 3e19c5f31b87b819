"""The doctor: what it finds of settings, broker, workers, clocks and the output folder, and what to do about it.

It ends with findings, whatever is broken, and changes nothing: of the file that it leaves in the output folder for the
workers to see, nothing stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis
from kombu.exceptions import OperationalError

from config import SettingsError
from config.settings import settings, unknown_variables
from producer.dispatch import workers as worker_queries
from producer.dispatch.workers import clock_ahead
from producer.doctor import folder_checks, server_checks, worker_checks
from producer.doctor.finding import Finding, Level, finding_from_error
from producer.formatting import pluralized
from producer.local_fleet.fleet import FleetSize, check_size, cores, server_binary
from tasks.broker import client as broker_client
from tasks.broker.redis_errors import redis_problem
from tasks.celery import use_broker
from tasks.download import network_settings
from tasks.download.guard import Guard
from tasks.errors import CommandError, FetchError
from tasks.redaction import redacted
from tasks.storage import folder_probe
from tasks.storage.store import Store

#: Seconds to wait for another worker's answer to who it is, counted from the last answer.
_INFO_SECONDS = 2.0
#: Seconds within which a proxy has to let itself be connected to.
_PROXY_SECONDS = 3.0


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
            info = server_checks.query_or_none(server.info) or {}
            writes = server_checks.check_writes(server)
            sent = time.time()
            clock = server_checks.query_or_none(server.time)
            if clock is not None:
                ahead["Redis"] = clock_ahead(clock[0] + clock[1] / 1e6, sent, time.time())
        use_broker(url)
    except CommandError as fault:
        return [finding_from_error("broker", fault)]
    findings = [Finding("broker", Level.OK, f"{redacted(url)} answers"), writes, *server_checks.server_findings(info)]
    try:
        workers = worker_queries.ask_workers(_INFO_SECONDS)
        findings += [server_checks.connections_finding(info, len(workers)), *worker_checks.workers_findings(workers)]
        ahead |= {worker.name: worker.skew for worker in workers if worker.skew is not None}
        findings.append(worker_checks.clocks_finding(ahead))
        if workers and examined.path is not None:
            findings += worker_checks.ask_workers_about_folder(
                examined.path, examined.token, [worker.name for worker in workers]
            )
    except (redis.RedisError, OperationalError, OSError) as error:
        problem = redis_problem(error)
        findings.append(Finding("workers", Level.BAD, f"they can't be asked: {problem.text}", problem.hint))
    return findings
