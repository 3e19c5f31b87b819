"""A run's output folder, before the run: made where it is missing, tried, and found free of another run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from producer.output import lock
from producer.output.run_file import RunFile
from tasks.errors import StorageError, UsageError
from tasks.storage.store import Store

_PROBE = ".probe"


def prepare_output(out: Path) -> Store:
    """Return the Store of a run's output folder, made if it is missing and found free of another run.

    Raises:
        UsageError: it can't be made or written, it holds a run, or another producer works there.
        CommandError: whether one does can't be told.
    """
    store = Store(out.resolve())
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        if RunFile.find_run_file(store) is not None:
            # Before what it is at is touched, and before it is called what is left of a run.
            lock.check_unlocked(store)
        store.replace(_PROBE, b"")
        store.remove(_PROBE)
        store.remove_temporary_folder()
    except (OSError, StorageError) as error:
        raise unwritable_error(store, error) from error
    RunFile.check_no_run(store)
    return store


@contextmanager
def new_run_folder(out: Path, broker: str | None) -> Iterator[Store]:
    """Give the Store of a new run's output folder, locked for as long as the block takes.

    Where the block fails before anything of the run stands in it, a folder that was made here is removed again.

    Args:
        out: the folder; made if it is missing.
        broker: the URL of the run's broker; None for a local fleet.

    Raises:
        UsageError: it can't be made, written or locked, it holds a run, or another producer works there.
        CommandError: whether one does can't be told.
    """
    with remove_created_on_failure(out):
        store = prepare_output(out)
        with lock.hold(store, broker, "run"):
            try:
                yield store
            except BaseException:
                with suppress(StorageError):
                    store.remove_temporary_folder()
                    if store.list_entries() == [lock.NAME]:
                        lock.discard(store)
                raise


@contextmanager
def remove_created_on_failure(out: Path) -> Iterator[None]:
    """Remove the folders that the block had to make for an output folder, if it fails and nothing is in them."""
    root = out.resolve()
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            # Not the folder of somebody who has begun to use it meanwhile: it is not empty.
            with suppress(OSError):
                folder.rmdir()
        raise


def existing_run(out: Path) -> Store:
    """Return the Store of a folder that holds a run.

    Raises:
        UsageError: it is not there, or no run is in it.
    """
    if not out.is_dir():
        raise UsageError(
            f"There is no folder {out}",
            "it was removed, or its name is another one",
            "Give the folder that --out named when the run was begun.",
        )
    store = Store(out.resolve())
    # Before it is locked: the lock's file would be left in a folder that has nothing to do with us.
    RunFile.require(store)
    return store


def unwritable_error(store: Store, error: Exception) -> UsageError:
    """Return what it means for a command that its output folder can't be written."""
    return UsageError(
        f"The output folder {store.root} can't be written",
        getattr(error, "strerror", None) or str(error),
        "Choose a folder that you may write to, on a disk that has space.",
    )
