"""A run's output folder, before the run: made where it is missing, tried, and found free of another run."""

from __future__ import annotations

from pathlib import Path

from producer.runfile import RunFile
from tasks.errors import StorageFailed, UsageFault
from tasks.storage import Store

_PROBE = ".probe"


def output(out: Path) -> Store:
    """Return the Store of a run's output folder, made if it is missing and found free of another run.

    Raises:
        UsageFault: it can't be made or written, or it holds a run.
    """
    store = Store(out.resolve())
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        store.replace(_PROBE, b"")
        store.remove(_PROBE)
        store.remove_temporary()
    except (OSError, StorageFailed) as error:
        raise unwritable(store, error) from error
    RunFile.refuse_another(store)
    return store


def standing(out: Path) -> Store:
    """Return the Store of a folder that should hold a run.

    Raises:
        UsageFault: it is not there.
    """
    if not out.is_dir():
        raise UsageFault(
            f"There is no folder {out}",
            "it was removed, or its name is another one",
            "Give the folder that --out named when the run was begun.",
        )
    return Store(out.resolve())


def unwritable(store: Store, error: Exception) -> UsageFault:
    """Return what it means for a command that its output folder can't be written."""
    return UsageFault(
        f"The output folder {store.root} can't be written",
        getattr(error, "strerror", None) or str(error),
        "Choose a folder that you may write to, on a disk that has space.",
    )
