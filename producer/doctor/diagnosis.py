"""Diagnose a setup: check the settings, the broker, the workers, the clocks and the output folder.

`diagnose` returns findings with their remedies, whatever is broken. It leaves everything unchanged. It writes a test
file to the output folder, and the workers try to find this file. Afterwards it removes the file.
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
from config.locations import Location, StoreUrl
from config.settings import settings, unknown_variables
from producer.dispatch import workers as worker_queries
from producer.dispatch.workers import clock_ahead
from producer.doctor import folder_checks, host_checks, server_checks, worker_checks
from producer.doctor.finding import Finding, Level, finding_from_error
from producer.formatting import pluralized
from producer.local_fleet.fleet import FleetSize, check_size, cores, server_binary
from tasks.broker import client as broker_client
from tasks.broker.redis_errors import redis_problem
from tasks.celery import use_broker
from tasks.download import network_settings
from tasks.download.guard import Guard
from tasks.errors import CommandError, FetchError, StorageError
from tasks.redaction import redacted
from tasks.storage import folder_probe
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore

#: After a worker has described itself, wait this many seconds for further workers.
_INFO_SECONDS = 2.0
#: Timeout in seconds for connecting to a proxy.
_PROXY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings. ``broker`` is the redacted URL, or None if commands would start a local fleet."""

    broker: str | None
    #: The location of the output folder.
    out: str | None
    findings: Sequence[Finding]

    @property
    def healthy(self) -> bool:
        """Whether no finding is bad."""
        return all(finding.level is not Level.BAD for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the value printed by ``--json``."""
        return {
            "healthy": self.healthy,
            "broker": self.broker,
            "out": self.out,
            "findings": [asdict(finding) for finding in self.findings],
        }


def diagnose(url: str | None, out: Location | None) -> Diagnosis:
    """Run all checks.

    Args:
        url: the broker's URL. None stands for the broker in the environment or, without one, for a local fleet.
        out: the output folder to check, here and at the workers; None to check no folder.

    Raises:
        SettingsError: the environment's broker settings are invalid.
    """
    url = url or settings().broker
    with _probe_location(out) as examined:
        findings = [
            *_unknown_variable_findings(),
            *_network_setting_findings(url is None),
            *(_local_fleet_findings() if url is None else _broker_findings(url, examined)),
            *examined.findings,
        ]
    return Diagnosis(None if url is None else redacted(url), examined.location, findings)


@dataclass(frozen=True, slots=True)
class _ProbedFolder:
    """An output folder during a diagnosis. ``token`` identifies its test file; None if no file could be written."""

    location: str | None
    token: str | None
    findings: Sequence[Finding]


@contextmanager
def _probe_location(out: Location | None) -> Iterator[_ProbedFolder]:
    """Yield the folder with a test file in it. Afterwards, remove the file and the folders that were created for it."""
    if out is None:
        yield _ProbedFolder(None, None, [])
    elif isinstance(out, StoreUrl):
        with _probe_objects(out) as found:
            yield found
    else:
        with _probe_folder(out) as found:
            yield found


@contextmanager
def _probe_objects(out: StoreUrl) -> Iterator[_ProbedFolder]:
    """Yield a folder in an object store with a test file in it. Afterwards, remove the file."""
    name, token = "object store", folder_probe.new_token()
    try:
        store = ObjectStore(out)
        store.check_writable()
        folder_probe.write_probe(store, token)
    except StorageError as error:
        hint = "Check the endpoint, the bucket, and the permissions of the credentials in this process's environment."
        yield _ProbedFolder(str(out), None, [Finding(name, Level.BAD, f"{out} can't be used: {error}", hint)])
        return
    try:
        found = f"{out} can be written, and the first of two writers wins"
        yield _ProbedFolder(str(out), token, [Finding(name, Level.OK, found), *folder_checks.inspect_folder(store)])
    finally:
        folder_probe.remove_probe(store, token)


@contextmanager
def _probe_folder(out: Path) -> Iterator[_ProbedFolder]:
    """Yield a folder with a test file in it. Afterwards, remove the file and the folders that were created for it."""
    name = "folder here"
    made: list[Path] = []
    store, token = LocalStore(out.absolute()), folder_probe.new_token()
    try:
        store = LocalStore(out.resolve())
        for path in reversed([store.root, *store.root.parents]):
            if not path.exists():
                path.mkdir()
                made.append(path)
        folder_probe.write_probe(store, token)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        todo = "Choose a folder you can write to, on a disk with free space."
        findings = [Finding(name, Level.BAD, f"{store.root} can't be written: {why}", todo)]
        found = _ProbedFolder(
            store.location, None, findings + (folder_checks.inspect_folder(store) if store.root.is_dir() else [])
        )
    else:
        if made:
            about = f"{store.root} does not exist; `producer run` can create it"
            todo = "If you expected a run there, give the folder of its --out option."
            findings = [Finding(name, Level.WARN, about, todo), *folder_checks.space_findings(store)]
        else:
            findings = [Finding(name, Level.OK, f"{store.root} can be written"), *folder_checks.inspect_folder(store)]
        found = _ProbedFolder(store.location, token, findings)
    try:
        yield found
    finally:
        folder_probe.remove_probe(store, token)
        for path in reversed(made):
            # Another process may use the folder by now.
            with suppress(OSError):
                path.rmdir()


def _unknown_variable_findings() -> list[Finding]:
    """Report unknown environment variables that are named like imagefleet's settings."""
    unknown = unknown_variables(os.environ)
    if not unknown:
        return []
    todo = "Correct the names, or unset the variables; docs/settings.md lists them."
    return [Finding("unknown settings", Level.WARN, f"ignored: {', '.join(unknown)}", todo)]


def _network_setting_findings(local: bool) -> list[Finding]:
    """Check the network settings in the environment. If none are set, return no finding.

    Args:
        local: whether a local fleet would use the settings. Workers of an existing broker have their own environments.
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
        # `validate` has already reported this error.
        pass
    except FetchError as error:
        wrong.append(f"IMAGEFLEET_PROXY: {error}")
    if not wrong:
        return [Finding(name, Level.OK, f"{', '.join(variables)} can be used")]
    affected = "" if local else "; `producer compare` and workers with this environment can't use these settings"
    todo = "Correct or unset the variables; see docs/settings.md."
    return [Finding(name, Level.BAD if local else Level.WARN, redacted("; ".join(wrong)) + affected, todo)]


def _local_fleet_findings() -> list[Finding]:
    try:
        binary = server_binary()
        check_size(FleetSize(len(cores())))
    except CommandError as error:
        return [finding_from_error("local fleet", error)]
    found = f"no broker is set: commands start {binary} and {pluralized(len(cores()), 'worker')} on this machine"
    return [Finding("local fleet", Level.OK, found)]


def _broker_findings(url: str, examined: _ProbedFolder) -> list[Finding]:
    ahead: dict[str, float] = {}
    try:
        with broker_client.client(url, retry=False) as server, broker_client.translate_errors(url):
            server.ping()
            info = server_checks.query_or_none(server.info) or {}
            writes = server_checks.check_writes(server)
            sent = time.time()
            load = server_checks.query_or_none(lambda: host_checks.measure_hosts(server))
            clock = server_checks.query_or_none(server.time)
            if clock is not None:
                ahead["Redis"] = clock_ahead(clock[0] + clock[1] / 1e6, sent, time.time())
        use_broker(url)
    except CommandError as error:
        return [finding_from_error("broker", error)]
    findings = [Finding("broker", Level.OK, f"{redacted(url)} answers"), writes, *server_checks.server_findings(info)]
    try:
        workers = worker_queries.ask_workers(_INFO_SECONDS)
        findings += [server_checks.connections_finding(info, len(workers)), *worker_checks.workers_findings(workers)]
        ahead |= {worker.name: worker.skew for worker in workers if worker.skew is not None}
        findings.append(worker_checks.clocks_finding(ahead))
        if load is not None:
            findings += host_checks.host_findings(load, sum(worker.slots for worker in workers))
        if workers and examined.location is not None:
            findings += worker_checks.ask_workers_about_folder(
                examined.location, examined.token, [worker.name for worker in workers]
            )
    except (redis.RedisError, OperationalError, OSError) as error:
        problem = redis_problem(error)
        findings.append(Finding("workers", Level.BAD, f"can't query the workers: {problem.text}", problem.hint))
    return findings
