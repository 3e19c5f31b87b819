"""A URL list in an object store: S3 and compatible stores, Google Cloud Storage, Azure Blob Storage.

The client is that of the output (`tasks/storage/object_store.py`): credentials and the endpoint come from the
environment, and it repeats failed requests itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from config.locations import StoreUrl
from producer.sources.remote_file import RemoteError
from tasks.errors import StorageError
from tasks.storage.object_errors import explain, is_the_stores
from tasks.storage.object_store import connect

_EXAMPLE = "Give the URL of one object, such as s3://bucket/list.csv."
_CHECK_URL = "Check the URL, and the credentials in the environment of this command."


class StoredObject:
    """One version of an object."""

    has_ranges = True

    def __init__(self, source: str) -> None:
        """Find an object.

        Raises:
            RemoteError: there is no such object, or it can't be read.
        """
        scheme, _, rest = source.strip().partition("://")
        bucket, _, self._key = rest.partition("/")
        try:
            self._bucket = StoreUrl.parse(f"{scheme}://{bucket}")
        except ValueError as error:
            raise RemoteError(str(error), _EXAMPLE) from error
        if not self._key or self._key.endswith("/"):
            raise RemoteError("its URL names no object", _EXAMPLE)
        try:
            self._client = connect(self._bucket)
        except StorageError as error:
            raise RemoteError(str(error), "Correct this, or copy the list to this machine.") from error
        import obstore

        with self._errors():
            found = obstore.head(self._client, self._key)
        self.size: int | None = int(found["size"])
        self.version: str | None = found["e_tag"] or found["version"]
        self._tag = found["e_tag"]

    def fetch(self, start: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``start`` on.

        Raises:
            RemoteError: they can't be read, or the object has changed.
        """
        import obstore
        from obstore.exceptions import PreconditionError

        options: dict[str, Any] = {"range": (start, start + count)}
        if self._tag is not None:
            options["if_match"] = self._tag
        with self._errors():
            try:
                return bytes(obstore.get(self._client, self._key, options=options).bytes())  # type: ignore[arg-type]
            except PreconditionError as error:
                raise RemoteError("it was changed meanwhile", "Start another run in another folder.") from error

    def close(self) -> None:
        """Do nothing, because the client keeps its connections for other objects."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_the_stores(error):
                raise
            # Without the cause, because its text may have the credentials' id.
            raise RemoteError(explain(error, self._bucket), _CHECK_URL) from None
