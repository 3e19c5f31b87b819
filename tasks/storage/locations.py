"""Open the store at a location. A worker opens only locations that its operator allows."""

from __future__ import annotations

from collections.abc import Iterable

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
