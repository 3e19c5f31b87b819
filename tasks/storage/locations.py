"""Open the store at a location. A worker opens only locations that its operator allows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from config.locations import Location, StoreUrl, parse_location
from tasks.errors import StorageError
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.store import Store


def open_store(location: Location) -> Store:
    """Return the store at a location. Links in a path are resolved.

    Raises:
        StorageError: the client of the object store can't be created.
        OSError, RuntimeError, ValueError: the path can't be resolved.
    """
    return ObjectStore(location) if isinstance(location, StoreUrl) else LocalStore(location.resolve())


def missing_folders(roots: Iterable[Location]) -> list[str]:
    """Return the folders that do not exist on this machine. Object stores are not asked."""
    # `Path.is_dir` raises an error if a parent can't be searched.
    return [str(root) for root in roots if isinstance(root, Path) and not os.path.isdir(root)]  # noqa: PTH112


def open_allowed(text: str, allowed: Iterable[Location]) -> Store:
    """Return the store at a location that a message names. It must be an allowed folder or lie in one.

    Raises:
        StorageError: the folder is not allowed, or the client of the object store can't be created.
    """
    try:
        location = parse_location(text)
    except ValueError as error:
        raise StorageError(f"this worker may not write to {text!a:.200}: {error}") from error
    if not isinstance(location, StoreUrl):
        return LocalStore.open_allowed(text, [root for root in allowed if not isinstance(root, StoreUrl)])
    if not any(isinstance(root, StoreUrl) and location.is_within(root) for root in allowed):
        raise StorageError(
            f"this worker may not write to {location} (its operator can allow it with IMAGEFLEET_STORE_ROOTS)"
        )
    return ObjectStore(location)
