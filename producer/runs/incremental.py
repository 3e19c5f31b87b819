"""Start a run in a folder that may already hold a run (``--incremental``)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from config.locations import Location, parse_location, resolved
from producer.output import lock
from producer.output.folder import existing_run, new_run_folder, open_output, unwritable_error
from producer.output.run_file import NAME, RunConfig, RunFile, State, resume_command
from producer.output.shard_files import load_manifest
from producer.runs.incremental_mode import IncrementalMode
from producer.runs.leftover_tasks import end_tasks
from producer.runs.option_names import differing_options
from producer.runs.removal import RunRemoval
from producer.runs.resume import load_complete
from producer.runs.run import Run
from producer.sources import url_list
from producer.sources.columns import CAPTION
from producer.sources.location import expand
from producer.sources.request_stream import schema_of
from tasks.errors import StorageError, UsageError
from tasks.model import ImageRequest, Outcome, Sidecar, Status
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef
from tasks.storage.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A request for a run: its list and its options."""

    #: The URL list, as it was given.
    source: str
    requests: Iterable[ImageRequest]
    config: RunConfig
    #: The options that the user gave, such as ``--timeout``. None: all options of ``config`` count as given.
    given: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that can start as soon as it has workers.

    It consists of the run's options and the function that starts the run.
    """

    config: RunConfig
    start: Callable[[], Run]


@contextmanager
def run_folder(out: Location, broker: str | None, mode: IncrementalMode | None) -> Iterator[Store]:
    """Yield the Store of a run's output folder, and hold its lock during the block.

    Args:
        out: the folder; created if it is missing.
        broker: the URL of the run's broker; None for a local fleet.
        mode: what to do if the folder holds a run. If None, such a folder is refused.

    Raises:
        UsageError: the folder can't be used, or another producer works there.
        CommandError: it is unknown whether another producer holds the lock.
    """
    if mode is None or not RunFile.is_in(open_output(out)):
        with new_run_folder(out, broker) as store:
            yield store
    else:
        store = existing_run(out)
        with lock.hold(store, broker, "run"):
            yield store


def resume_same(wanted: RunRequest, store: Store) -> Run:
    """Resume the run in a folder, if it has the same list and the same options.

    Raises:
        UsageError: the list or an option differs.
        CommandError: a file of the run is damaged.
    """
    found = RunFile.load_usable(store)
    if not url_list.is_unchanged(wanted.source, found.fingerprint):
        same = wanted.source == found.source
        raise UsageError(
            f"The run in {store.location} has another list",
            url_list.explain_difference(found.source) if same else f"it is a run of {url_list.shown(found.source)}",
            f"Choose another --out, or another value for --incremental. `{resume_command(store)}` continues that run.",
        )
    _check_options(differing_options(wanted.config, found.options), store)
    if wanted.source != found.source:
        # The list was moved, or this command runs in another working directory.
        try:
            found.save(store, source=wanted.source)
        except StorageError as error:
            raise unwritable_error(store, error) from error
    return Run.resume(store)


def prepare(wanted: RunRequest, mode: IncrementalMode | None, store: Store, broker: str | None) -> PreparedRun:
    """Prepare a new run, a run that replaces an existing run, or the extension of an existing run.

    Nothing in the folder changes yet.

    Args:
        wanted: the run.
        mode: what to do with an existing run; not ``skip``.
        store: the locked folder.
        broker: the URL of the new run's broker; None for a local fleet.

    Raises:
        UsageError: the existing run can't be removed or extended.
        CommandError: the existing run's run.json is damaged, or that run's broker is unreachable.
    """
    _warn_of_missing_captions(wanted)
    begin = partial(Run.begin, wanted.requests, wanted.source, store, wanted.config)
    if mode is None or not RunFile.is_in(store):
        return PreparedRun(wanted.config, begin)
    if mode is IncrementalMode.EXTEND:
        config = _check_extension(wanted, store)
        return PreparedRun(config, partial(Run.extend, store, wanted.requests, wanted.source, wanted.config.source))
    if mode is not IncrementalMode.OVERWRITE:
        # Only an explicit `overwrite` may remove a run.
        raise ValueError(f"no new run can be prepared with --incremental {mode}")
    record = RunFile.load(store)
    _check_overwriting(wanted, record, store)
    removal = RunRemoval(record, store)
    end_tasks(record, broker)

    def replace_run() -> Run:
        removal.remove()
        return begin()

    return PreparedRun(wanted.config, replace_run)


def _warn_of_missing_captions(wanted: RunRequest) -> None:
    if Sidecar.TXT in wanted.config.output.sidecars:
        types = schema_of(wanted.requests)
        if types is None or CAPTION not in types.names:
            _log.warning(
                "--sidecar txt saves no captions, because no column has them; name the column with --caption-col"
            )


def _is_inside(file: str, store: Store) -> bool:
    """Return whether a file of a URL list is in the folder of a run."""
    try:
        place, folder = resolved(parse_location(file)), resolved(parse_location(store.location))
    except ValueError:
        # The list is on a web server, or it is an object with a name that no folder can have.
        return False
    if isinstance(place, Path):
        return isinstance(folder, Path) and place.is_relative_to(folder)
    return not isinstance(folder, Path) and place.is_within(folder)


def _check_overwriting(wanted: RunRequest, found: RunFile, store: Store) -> None:
    """Check that the images of a run can be found, and that the images of the new run can be named.

    Raises:
        UsageError: the `--path-template` or `--path-col` of a run makes this impossible, or the list would be removed
            with the run because it is in the folder.
    """
    hint = "Remove that folder, or choose another --out."
    inside = next((file for file in expand(wanted.source) if _is_inside(file, store)), None)
    if inside is not None:
        raise UsageError(
            f"The run in {store.location} can't be overwritten",
            f"the URL list, or a part of it, is in that folder: {inside}",
            "Move the list, or choose another --out.",
        )
    if wanted.config.has_own_names:
        raise UsageError(
            f"The run in {store.location} can't be overwritten",
            "a run with --path-template or --path-col needs an empty folder",
            hint,
        )
    if found.options.has_own_names and found.state not in (State.COMPLETE, State.REMOVING):
        raise UsageError(
            f"The run in {store.location} can't be overwritten",
            "it is unfinished, so some manifests are missing; "
            "only they list the images named by --path-template or --path-col",
            f"Complete it first with `{resume_command(store)}`. Or remove that folder.",
        )


def _check_extension(wanted: RunRequest, store: Store) -> RunConfig:
    """Check that a request can extend the run in a folder; return the options of that run.

    Raises:
        UsageError: the run is incomplete, already has this list, or has other options or other columns.
        CommandError: a manifest can't be read.
    """
    found = load_complete(store, "extended")
    source = wanted.config.source
    if found.options.has_own_names or source.path_col is not None:
        raise UsageError(
            f"The run in {store.location} can't be extended",
            "with --path-template or --path-col, the images of two lists could have the same names",
            "Choose another --out.",
        )
    if source == found.options.source and url_list.is_unchanged(wanted.source, found.fingerprint):
        raise UsageError(
            f"The run in {store.location} has the rows of this list already",
            f"its last list, {url_list.shown(found.source)}, has the same content as this list",
            "Give another list. If this list has grown meanwhile, use --offset to skip its old rows.",
        )
    # The options for reading a list may differ, because they depend on the list.
    differing = differing_options(wanted.config, replace(found.options, source=source))
    given = differing if wanted.given is None else [name for name in differing if name in wanted.given]
    _check_options(given, store)
    _check_columns(wanted, found, store)
    return found.options


def _check_columns(wanted: RunRequest, found: RunFile, store: Store) -> None:
    """Check that the new manifests will have the same columns as the existing manifests.

    Tools that read all manifests at once take the columns of the first manifest, and ignore or refuse other columns.

    Raises:
        UsageError: the columns differ.
        CommandError: a manifest can't be read.
    """
    before = manifest.list_columns(load_manifest(0, store, found.id, None).schema)
    types = schema_of(wanted.requests)
    row = ImageRequest(0, "", dict.fromkeys(() if types is None else types.names))
    ref = ShardRef(found.id, 0)
    planned = plan.decode(plan.encode([row], ref, types))
    now = manifest.list_columns(manifest.join(planned, [Outcome("0", Status.SUCCESS)]).schema)
    if now == before:
        return
    raise UsageError(
        f"The list can't extend the run in {store.location}",
        "its manifests would have other columns than those of the run. "
        f"The run has {_described(before)}; the list gives {_described(now)}",
        "Use --caption-col, --columns and --url-col to give the same columns, or choose another --out.",
    )


def _described(columns: Mapping[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in columns.items())


def _check_options(differing: Collection[str], store: Store) -> None:
    if differing:
        raise UsageError(
            f"The run in {store.location} has other options",
            f"these differ: {', '.join(sorted(differing))}",
            f"Use the options in {store.describe(NAME)}, or choose another --out.",
        )
