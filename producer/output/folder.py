"""Prepare a run's output folder: create it if it is missing, check that it is writable, and refuse an existing run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from config.locations import Location
from producer.output import lock
from producer.output.run_file import RunFile
from tasks.errors import StorageError, UsageError
from tasks.storage.local_store import LocalStore
from tasks.storage.locations import open_store
from tasks.storage.store import Store


def prepare_output(out: Location) -> Store:
    """Return the Store of a new run's output folder; create the folder if it is missing.

    Raises:
        UsageError: the folder can't be created or written, the folder holds a run, or another producer works there.
        CommandError: it is unknown whether another producer holds the lock.
    """
    store = open_output(out)
    try:
        store.create_folder()
        if RunFile.find_run_file(store) is not None:
            # Check for another producer first. Otherwise, the folder's files would be touched, or an active run would
            # be reported as an old run.
            lock.check_unlocked(store)
        store.check_writable()
    except StorageError as error:
        raise unwritable_error(store, error) from error
    RunFile.check_no_run(store)
    return store


@contextmanager
def new_run_folder(out: Location, broker: str | None) -> Iterator[Store]:
    """Yield the Store of a new run's output folder, and hold its lock during the block.

    If the folder was created here, and the block fails before the run has written anything, the folder is removed
    again.

    Args:
        out: the folder; created if it is missing.
        broker: the URL of the run's broker; None for a local fleet.

    Raises:
        UsageError: the folder can't be created, written or locked, the folder holds a run, or another producer works
            there.
        CommandError: it is unknown whether another producer holds the lock.
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
def remove_created_on_failure(out: Location) -> Iterator[None]:
    """If the block fails, remove the empty folders that the block created for an output folder."""
    missing: list[Path] = []
    if isinstance(out, Path):
        root = out.resolve()
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in missing:
            # If another process uses the folder by now, the folder is not empty, and the removal fails.
            with suppress(OSError):
                folder.rmdir()
        raise


def open_output(out: Location) -> Store:
    """Return the Store of an output folder, which may not exist yet.

    Raises:
        UsageError: the client of an object store is not installed, or can't use the environment's settings.
    """
    try:
        return open_store(out)
    except StorageError as error:
        raise UsageError(
            f"The output folder {out} can't be used", str(error), "Install the client, or correct the settings."
        ) from error


def existing_run(out: Location) -> Store:
    """Return the Store of a folder with a run.

    Raises:
        UsageError: the folder does not exist, or holds no run.
        CommandError: an object store can't be asked.
    """
    if isinstance(out, Path) and not out.is_dir():
        raise UsageError(
            f"There is no folder {out}",
            "it was removed or renamed, or its path is misspelled",
            "Give the folder that the run was started with (--out).",
        )
    store = open_output(out)
    # Check before locking, because locking would leave a lock file in an unrelated folder.
    RunFile.require(store)
    return store


def unwritable_error(store: Store, error: Exception) -> UsageError:
    """Return the error for an unwritable output folder."""
    return UsageError(
        f"The output folder {store.location} can't be written",
        getattr(error, "strerror", None) or str(error),
        "Choose a folder you can write to, on a disk with free space."
        if isinstance(store, LocalStore)
        else "Check the store, and the permissions of the credentials in the environment.",
    )
