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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from config import limits
from config.locations import Location, check_folder_name, parse_location, resolved
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
    workers: Annotated[int, limits.FLEET_SIZE] | None = None
    #: Download slots in each worker process.
    concurrency: Annotated[int, limits.FLEET_SIZE] = limits.CONCURRENCY
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
    incremental: IncrementalMode | str | None = None,
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
        incremental: what to do if the folder holds a run, as a mode or its value, such as ``"skip"``; None: refuse the
            folder.

    Returns:
        The result. Failed images don't raise an exception: ``result.summary`` counts them, and ``result.outcomes()``
        yields the Outcome of each image.

    Raises:
        UsageError: the list or the folder can't be used, or an option is invalid or has no effect here.
        CommandError: the run can't continue, for example because Redis is unreachable. ``error.hint`` is the next step.
        SettingsError: an environment variable has an invalid value.
    """
    from producer.output.run_file import RunConfig, RunFile
    from producer.runs import incremental as starting
    from producer.runs.incremental_mode import IncrementalMode
    from producer.runs.option_conflicts import checked_run_config
    from producer.runs.option_values import checked_member
    from producer.runs.preflight import checked_config

    mode = None if incremental is None else checked_member(incremental, IncrementalMode, "incremental")
    given = () if config is None else None
    options = checked_run_config(RunConfig() if config is None else config)
    call = _checked_call(out, workers, on_progress)
    options = checked_config(options, call.out, call.broker)
    name, requests = _requests(source, options)
    wanted = starting.RunRequest(name, requests, options, given)
    with starting.run_folder(call.out, call.broker, mode) as store:
        if mode is IncrementalMode.SKIP and RunFile.is_in(store):
            return _execute(starting.resume_same(wanted, store), call)
        prepared = starting.prepare(wanted, mode, store, call.broker)
        with _worker_pool(call, prepared.config) as pool, prepared.start() as run:
            return run.execute(pool, call.listener)


def resume(out: str | Path, workers: Workers = None, on_progress: Listener | None = None) -> RunResult:
    """Continue the run in a folder, however it ended, and wait for the end. A complete run returns its result at once.

    Raises: the errors of `download`; UsageError also if the folder holds no run.
    """
    from producer.runs.run import Run

    return _continue_run(Run.resume, "resume", _checked_call(out, workers, on_progress))


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
    from producer.runs.option_values import checked_members
    from producer.runs.run import Run
    from tasks.model import Reason

    chosen = checked_members(reasons, Reason, "reasons")
    return _continue_run(lambda store: Run.retry(store, chosen), "retry", _checked_call(out, workers, on_progress))


@dataclass(frozen=True, slots=True)
class _Call:
    """The checked arguments of a call, except the list and the options of the run."""

    out: Location
    workers: Workers
    #: The URL of the broker; None for a local fleet.
    broker: str | None
    listener: Listener


def _checked_call(out: Any, workers: Any, on_progress: Any) -> _Call:
    """Check the arguments of a call and, for a local fleet, the network settings.

    Raises:
        UsageError: an argument has the wrong type, or a value that can't be used.
        SettingsError: an environment variable has an invalid value.
    """
    from producer.runs.option_values import checked_options
    from producer.runs.preflight import check_network_settings, checked_broker_url
    from tasks.download.guard import rules
    from tasks.errors import UsageError

    if not (on_progress is None or callable(on_progress)):
        raise UsageError("on_progress can't be called", f"it is {on_progress!r:.100}", "Pass a function, or None.")
    location = _location(out)
    listener = on_progress or _ignore
    if isinstance(workers, LocalFleet):
        workers = checked_options(workers, LocalFleet, "LocalFleet")
        try:
            rules(workers.allow_networks or ())
        except ValueError as error:
            what, hint = "LocalFleet.allow_networks can't be used", "Give networks like 10.1.0.0/16 or 127.0.0.1:8765."
            raise UsageError(what, str(error), hint) from error
        check_network_settings()
        return _Call(location, workers, None, listener)
    is_broker = isinstance(workers, Broker) and isinstance(workers.url, str) and workers.url
    if workers is not None and not is_broker:
        # The error does not show the value, because a URL may have a password.
        why = "it is neither a LocalFleet nor a Broker with a URL"
        raise UsageError(f"workers can't be this {type(workers).__name__}", why, "Pass Broker(url), for example.")
    return _Call(location, workers, checked_broker_url(None if workers is None else workers.url), listener)


def _continue_run(open_run: Callable[[Store], Run], command: str, call: _Call) -> RunResult:
    from producer.output import lock
    from producer.output.folder import existing_run

    store = existing_run(call.out)
    with lock.hold(store, call.broker, command):
        return _execute(open_run(store), call)


def _execute(run: Run, call: _Call) -> RunResult:
    """Return the result of an existing run, after continuing the run if it is incomplete."""
    if run.is_done:
        return run.summary()
    with run, _worker_pool(call, run.config) as pool:
        return run.execute(pool, call.listener)


@contextmanager
def _worker_pool(call: _Call, config: RunConfig) -> Iterator[WorkerPool]:
    """Yield the workers at the broker, or start a local fleet for the duration of the block and yield its workers."""
    from producer.local_fleet.fleet import Fleet, FleetSize, cores
    from producer.runs.worker_pool import broker_pool, local_pool
    from tasks import file_descriptors

    if call.broker is not None:
        yield broker_pool(call.broker, resolved(call.out), config.fetch.insecure)
        return
    local = call.workers if isinstance(call.workers, LocalFleet) else LocalFleet()
    # The fleet's processes inherit this limit of open files.
    file_descriptors.raise_limit()
    previous = () if config.previous_run is None else (parse_location(config.previous_run),)
    size = FleetSize(local.workers or len(cores()), local.concurrency)
    with Fleet(size, [resolved(call.out)], local.allow_networks, previous_run_folders=previous) as fleet:
        yield local_pool(fleet)


def _requests(source: Any, config: RunConfig) -> tuple[str, Iterable[ImageRequest]]:
    """Return the name and the requests of a URL list.

    Raises:
        UsageError: none of the first rows is a URL, or the list can't be read.
    """
    from producer.sources import url_list
    from producer.sources.options import SourceOptions
    from tasks.errors import UsageError

    if isinstance(source, str | Path):
        name = str(source)
        return name, url_list.require_urls(url_list.read(name, config.source), name)
    if replace(config.source, dedupe=None) != SourceOptions():
        raise UsageError(
            "Of the options in RunConfig.source, only dedupe can be used here",
            "they say how to read a list in a file, but the URLs come from Python",
            "Omit them, or write the list to a file.",
        )
    if isinstance(source, bytes) or not isinstance(source, Iterable):
        what = f"source can't be this {type(source).__name__}"
        raise UsageError(what, "it is neither the path of a list nor URLs", "Pass a path, or an iterable of URLs.")
    requests = (_request(index, url) for index, url in enumerate(source))
    return PYTHON_SOURCE, url_list.require_urls(requests, PYTHON_SOURCE)


def _request(index: int, url: Any) -> ImageRequest:
    """Return the request for an item of the given URLs. An item that is not text, such as NaN, is refused."""
    from tasks.model import ImageRequest, Reason, Refusal

    if isinstance(url, str):
        return ImageRequest(index, url)
    why = f"item {index} is {url!r:.60} ({type(url).__name__}), not the text of a URL"
    return ImageRequest(index, "", refused=Refusal(Reason.INVALID_ROW, why))


def _location(out: Any) -> Location:
    """Return the location of an output folder.

    Raises:
        UsageError: this is not a location, or is an invalid URL of an object store.
    """
    from tasks.errors import UsageError

    hint = "Give a path, or a URL such as s3://bucket/prefix."
    if not isinstance(out, str | Path):
        raise UsageError(f"The output folder {out!r:.100} can't be used", "it is neither text nor a Path", hint)
    try:
        location = out if isinstance(out, Path) else parse_location(out)
        if isinstance(location, Path):
            check_folder_name(str(out))
    except ValueError as error:
        raise UsageError(f"The output folder {str(out)!r} can't be used", str(error), hint) from error
    return location


def _ignore(_: Progress) -> None:
    """Ignore the progress."""
