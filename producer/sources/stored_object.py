"""A URL list in an object store: S3 and compatible stores, Google Cloud Storage, Azure Blob Storage.

The list is read with the client that also writes the output (`tasks/storage/object_store.py`). The client takes
credentials and the endpoint from the environment, and repeats failed requests itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from config.locations import StoreUrl
from producer.sources.remote_file import RemoteChangedError, RemoteError
from tasks.errors import StorageError
from tasks.storage.object_errors import explain, is_the_stores
from tasks.storage.object_store import connect

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

_EXAMPLE = "Give the URL of one object, such as s3://bucket/list.csv."
_CHECK_URL = "Check the URL (that of a folder ends with a slash), and the credentials in this command's environment."


class StoredObject:
    """One version of an object."""

    has_ranges = True

    def __init__(self, source: str) -> None:
        """Find an object.

        Raises:
            RemoteError: the object does not exist, or can't be read.
        """
        self._bucket, self._client, self._key = open_bucket(source)
        if not self._key:
            raise RemoteError("its URL names no object", _EXAMPLE)
        import obstore

        with translated_errors(self._bucket):
            found = obstore.head(self._client, self._key)
        self.size: int | None = int(found["size"])
        self.version: str | None = found["e_tag"] or found["version"]
        self._tag = found["e_tag"]

    def fetch(self, start: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``start`` on.

        Raises:
            RemoteError: the bytes can't be read, or the object has changed.
        """
        import obstore
        from obstore.exceptions import PreconditionError

        options: dict[str, Any] = {"range": (start, start + count)}
        if self._tag is not None:
            options["if_match"] = self._tag
        with translated_errors(self._bucket):
            try:
                return bytes(obstore.get(self._client, self._key, options=options).bytes())  # type: ignore[arg-type]
            except PreconditionError as error:
                raise RemoteChangedError from error

    def close(self) -> None:
        """Do nothing, because the client keeps its connections for other objects."""


def open_bucket(source: str) -> tuple[StoreUrl, Client, str]:
    """Return three things for a URL: its bucket, the client for the bucket, and the object's name in the bucket.

    Raises:
        RemoteError: the URL is not valid, or the client can't be created.
    """
    scheme, _, rest = source.strip().partition("://")
    name, _, key = rest.partition("/")
    try:
        bucket = StoreUrl.parse(f"{scheme}://{name}")
    except ValueError as error:
        raise RemoteError(str(error), _EXAMPLE) from error
    try:
        return bucket, connect(bucket), key
    except StorageError as error:
        raise RemoteError(str(error), "Fix this error, or copy the list to this machine.") from error


@contextmanager
def translated_errors(bucket: StoreUrl) -> Iterator[None]:
    """Translate the client's errors for a bucket into a `RemoteError`."""
    try:
        yield
    except Exception as error:
        if not is_the_stores(error):
            raise
        # The error has no cause, because the cause's text may contain the credentials' id.
        raise RemoteError(explain(error, bucket), _CHECK_URL) from None
