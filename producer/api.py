"""Download images from a Python program or a notebook: the work of the commands ``run``, ``resume`` and ``retry``.

::

    from producer import FetchOptions, RunConfig, download

    result = download("urls.csv", "images", RunConfig(FetchOptions(retries=1)))
    print(result.wall_seconds, result.summary.reasons)
    for outcome in result.outcomes():
        print(outcome.key, outcome.status, outcome.path)

Without a broker, each call starts a local fleet and ends it. The options are the same as those of the commands, and are
passed as frozen values. Importing this module starts nothing. The code of a run is loaded only when a function is
called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from config import limits
from config.locations import Location, parse_location, resolved
from tasks.errors import WORTH_RETRYING

if TYPE_CHECKING:
    from producer.dispatch.progress import Progress
    from producer.output.run_file import RunConfig
    from producer.runs.incremental_mode import IncrementalMode
    from producer.runs.result import RunResult
    from producer.runs.run import Run
    from producer.runs.worker_pool import WorkerPool
    from tasks.model import ImageRequest
    from tasks.storage.store import Store

#: The name for a URL list if the program passes URLs instead of a path.
PYTHON_SOURCE = "(URLs from Python)"


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """A fleet for one call. It runs on this machine and has a private Redis."""

    #: The number of worker processes; None for one per CPU core.
    workers: int | None = None
    #: Download slots in each worker process.
    concurrency: int = limits.CONCURRENCY
    #: Networks like ``10.1.0.0/16`` or ``127.0.0.1:8765``. The workers may connect to these networks and to public
    #: addresses. None for IMAGEFLEET_ALLOW_NETWORKS.
    allow_networks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """The workers that are connected to a Redis."""

    #: The URL of the Redis, like ``redis://localhost:6379/0``.
    url: str


#: The workers of a call. None for the broker in IMAGEFLEET_BROKER_URL or, if that is not set, a local fleet.
Workers = LocalFleet | Broker | None
#: A function that is called with the progress a few times a second, in the thread of the call.
Listener = Callable[["Progress"], None]


def download(
    source: str | Path | Iterable[str],
    out: str | Path,
    config: RunConfig | None = None,
    workers: Workers = None,
    on_progress: Listener | None = None,
    incremental: IncrementalMode | None = None,
) -> RunResult:
    """Download every image of a URL list into a folder, and wait for the end.

    Ctrl-C, or an exception from ``on_progress``, ends the run early. `resume` continues it.

    Args:
        source: the path or URL of a URL list, or the URLs of the images themselves.
        out: the output folder: a path, or the URL of an object store such as ``s3://bucket/prefix``. A missing folder
            is created.
        config: the options; None for the defaults of ``producer run`` or, if a run is extended, for the options of
            that run.
        workers: where to download.
        on_progress: called with the progress.
        incremental: what to do if the folder holds a run; None: refuse it.

    Returns:
        The result. Failed images don't raise an exception: ``result.summary`` counts them, and ``result.outcomes()``
        yields the Outcome of each image.

    Raises:
        UsageError: the list or the folder can't be used, or an option has no effect here.
        CommandError: the run can't continue, for example because Redis is unreachable. ``error.hint`` is the next step.
        SettingsError: an environment variable has an invalid value.
    """
    from producer.output.run_file import RunConfig, RunFile
    from producer.runs import incremental as starting
    from producer.runs.incremental_mode import IncrementalMode
    from producer.runs.preflight import checked_config

    given = () if config is None else None
    broker = _broker_url(workers)
    config = checked_config(RunConfig() if config is None else config, _location(out), broker)
    name, requests = _requests(source, config)
    wanted = starting.RunRequest(name, requests, config, given)
    with starting.run_folder(_location(out), broker, incremental) as store:
        if incremental is IncrementalMode.SKIP and RunFile.is_in(store):
            return _execute(starting.resume_same(wanted, store), _location(out), workers, broker, on_progress)
        prepared = starting.prepare(wanted, incremental, store, broker)
        with _worker_pool(_location(out), prepared.config, workers, broker) as pool, prepared.start() as run:
            return run.execute(pool, on_progress or _ignore)


def resume(out: str | Path, workers: Workers = None, on_progress: Listener | None = None) -> RunResult:
    """Continue the run in a folder, however it ended, and wait for the end. A complete run returns its result at once.

    Raises: the errors of `download`; UsageError also if the folder holds no run.
    """
    from producer.runs.run import Run

    return _continue_run(Run.resume, "resume", _location(out), workers, on_progress)


def retry(
    out: str | Path,
    reasons: Collection[str] = WORTH_RETRYING,
    workers: Workers = None,
    on_progress: Listener | None = None,
) -> RunResult:
    """Repeat the failed images of a complete run, and wait for the end.

    If no images are to be retried, the call returns at once.

    Args:
        out: the folder of the run.
        reasons: the failure reasons to retry; by default the reasons that may be temporary.
        workers: where to download.
        on_progress: called with the progress.

    Raises: as `download`; UsageError also if the folder holds no complete run.
    """
    from producer.runs.run import Run

    return _continue_run(lambda store: Run.retry(store, reasons), "retry", _location(out), workers, on_progress)


def _continue_run(
    open_run: Callable[[Store], Run], command: str, out: Location, workers: Workers, on_progress: Listener | None
) -> RunResult:
    from producer.output import lock
    from producer.output.folder import existing_run

    broker = _broker_url(workers)
    store = existing_run(out)
    with lock.hold(store, broker, command):
        return _execute(open_run(store), out, workers, broker, on_progress)


def _execute(run: Run, out: Location, workers: Workers, broker: str | None, on_progress: Listener | None) -> RunResult:
    """Return the result of an existing run, after continuing the run if it is incomplete."""
    if run.is_done:
        return run.summary()
    with run, _worker_pool(out, run.config, workers, broker) as pool:
        return run.execute(pool, on_progress or _ignore)


def _broker_url(workers: Workers) -> str | None:
    """Return the URL of the broker, or None for a local fleet.

    For a local fleet, check the network settings.
    """
    from producer.runs.preflight import check_network_settings, checked_broker_url

    if isinstance(workers, LocalFleet):
        check_network_settings()
        return None
    return checked_broker_url(None if workers is None else workers.url)


@contextmanager
def _worker_pool(out: Location, config: RunConfig, workers: Workers, broker: str | None) -> Iterator[WorkerPool]:
    """Yield the workers at the broker, or start a local fleet for the duration of the block and yield its workers."""
    from producer.local_fleet.fleet import Fleet, FleetSize, cores
    from producer.runs.worker_pool import broker_pool, local_pool
    from tasks import file_descriptors

    if broker is not None:
        yield broker_pool(broker, resolved(out), config.fetch.insecure)
        return
    local = workers if isinstance(workers, LocalFleet) else LocalFleet()
    # The fleet's processes inherit this limit of open files.
    file_descriptors.raise_limit()
    previous = () if config.previous_run is None else (parse_location(config.previous_run),)
    size = FleetSize(local.workers or len(cores()), local.concurrency)
    with Fleet(size, [resolved(out)], local.allow_networks, previous_run_folders=previous) as fleet:
        yield local_pool(fleet)


def _requests(source: str | Path | Iterable[str], config: RunConfig) -> tuple[str, Iterable[ImageRequest]]:
    """Return the name and the requests of a URL list.

    Raises:
        UsageError: none of the first rows is a URL, or the list can't be read.
    """
    from producer.sources import url_list
    from producer.sources.options import SourceOptions
    from tasks.errors import UsageError
    from tasks.model import ImageRequest

    if isinstance(source, str | Path):
        name = str(source)
        return name, url_list.require_urls(url_list.read(name, config.source), name)
    if replace(config.source, dedupe=None) != SourceOptions():
        raise UsageError(
            "Of the options in RunConfig.source, only dedupe can be used here",
            "they say how to read a list in a file, but the URLs come from Python",
            "Omit them, or write the list to a file.",
        )
    requests = (ImageRequest(index, url) for index, url in enumerate(source))
    first = next(requests, None)
    if first is None:
        raise UsageError("There are no URLs to download", "the given iterable is empty", "Pass at least one URL.")
    return PYTHON_SOURCE, chain([first], requests)


def _location(out: str | Path) -> Location:
    """Return the location of an output folder.

    Raises:
        UsageError: the location is an invalid URL of an object store.
    """
    from tasks.errors import UsageError

    try:
        return out if isinstance(out, Path) else parse_location(out)
    except ValueError as error:
        hint = "Give a path, or a URL such as s3://bucket/prefix."
        raise UsageError(f"The output folder {out} can't be used", str(error), hint) from error


def _ignore(_: Progress) -> None:
    """Ignore the progress."""
