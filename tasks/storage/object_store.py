"""Save files in a folder of an object store: S3 and compatible stores, Google Cloud Storage, Azure Blob Storage.

Each file is one object, and each write is one request. So an object is either complete or absent, and temporary names
are not needed. The store itself decides which writer of a name is the first (``If-None-Match: *``), and reports a
change since the last read (``If-Match``). A response to a write means that the object is durable and visible, so there
is nothing to sync.

The client is obstore, from the extra ``objects``. It reads credentials and the endpoint from the environment, as the
stores' own tools do (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` …).
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from config.locations import StoreUrl
from tasks.errors import StorageError
from tasks.storage.object_errors import explain, is_the_stores
from tasks.storage.object_file import ObjectFile
from tasks.storage.store import PRIVATE_MODE, PUBLIC_MODE, Store

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

#: Limits of one request, in seconds. A request of 64 MiB then needs at least 18 Mbit/s.
_CONNECT_SECONDS, _REQUEST_SECONDS = 5, 30
#: The client repeats a failed request for at most this many seconds after the first request, and at most this many
#: times. A save then ends within 50 s. The longest deadline of an image leaves room for more than 50 s.
_RETRY_SECONDS, _MAX_RETRIES = 20, 6
_FIRST_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 3.0
#: The size of a large object's parts in bytes, and the number of parts that are sent at a time.
_PART_BYTES, _PARALLEL_PARTS = 8 * 1024**2, 2
#: Attempts to create an object, if the store reports its name as taken but has no such object.
_CREATE_ATTEMPTS = 3
_PROBE = ".probe"

#: The version of an object, as the store names it.
Version: TypeAlias = Mapping[str, str]


class ObjectStore(Store):
    """A run's output folder in an object store."""

    def __init__(self, url: StoreUrl) -> None:
        """Take the folder. No request is sent.

        Raises:
            StorageError: the client is not installed, or the environment has an invalid setting for it.
        """
        self.url = url
        #: Called before each write, if set. It raises a StorageError if this process may no longer write.
        self.before_write: Callable[[], None] | None = None
        self._client = connect(url)

    @property
    def location(self) -> str:
        """The folder's URL."""
        return str(self.url)

    def describe(self, name: str) -> str:
        """Return the URL of a name."""
        return f"{self.url}/{name}"

    def is_within(self, other: Store) -> bool:
        """Return whether this folder is the other store's folder, or is below that folder."""
        return isinstance(other, ObjectStore) and self.url.is_within(other.url)

    def exists(self, name: str) -> bool:
        """Return whether an object of this name exists.

        Raises:
            StorageError: the store can't be queried.
        """
        return self.file_size(name) is not None

    def folder_exists(self, name: str) -> bool:
        """Return whether an object's name begins with this folder's name, because an object store has no folders.

        Raises:
            StorageError: the store can't be queried.
        """
        import obstore

        with self._errors("list", name):
            return any(chunk for chunk in obstore.list(self._client, name, chunk_size=1))

    def file_size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if there is no object of this name.

        Raises:
            StorageError: the store can't be queried.
        """
        import obstore

        with self._errors("look up", name), suppress(FileNotFoundError):
            return int(obstore.head(self._client, name)["size"])
        return None

    def read(self, name: str) -> bytes:
        """Return an object's bytes.

        Raises:
            StorageError: the object can't be read.
        """
        import obstore

        with self._errors("read", name):
            return bytes(obstore.get(self._client, name).bytes())

    def read_version(self, name: str) -> tuple[bytes, Version] | None:
        """Return an object's bytes and its version; None if there is no object of this name.

        Raises:
            StorageError: the object can't be read.
        """
        import obstore

        with self._errors("read", name), suppress(FileNotFoundError):
            found = obstore.get(self._client, name)
            return bytes(found.bytes()), _version(found.meta)
        return None

    def create(self, name: str, body: bytes, mode: int = PUBLIC_MODE) -> bool:
        """Save bytes as a new object. If the object exists, return False and change nothing.

        If the response to a write is lost, the client repeats the write, so the existing object may have these same
        bytes.

        Raises:
            StorageError: the bytes can't be saved.
        """
        self._check_write()
        return self.create_version(name, body) is not None

    def create_linked(self, name: str, body: bytes, source: Store, source_name: str) -> bool:
        """Save bytes as `create` does. The bytes are sent again, because a copy in the store could replace an object.

        Raises:
            StorageError: the bytes can't be saved.
        """
        return self.create(name, body)

    def create_durably(self, name: str, body: bytes) -> bool:
        """Save bytes as a new object. If the object exists with different bytes, return False.

        Raises:
            StorageError: the bytes can't be saved.
        """
        return self.create(name, body) or self.read(name) == body

    def create_version(self, name: str, body: bytes) -> Version | None:
        """Save bytes as a new object, and return its version. If the object exists, return None, as in `create`.

        Raises:
            StorageError: the bytes can't be saved.
        """
        from obstore.exceptions import AlreadyExistsError

        with self._errors("save", name):
            for _ in range(_CREATE_ATTEMPTS):
                with suppress(AlreadyExistsError):
                    return self._put(name, body, "create")
                # S3 also refuses a write while another write of the same name is in progress, and that other write may
                # fail.
                if self.exists(name):
                    break
        return None

    def replace(self, name: str, body: bytes, mode: int = PRIVATE_MODE) -> None:
        """Save bytes under a name; replace an existing object.

        Raises:
            StorageError: the bytes can't be saved; an existing object is unchanged.
        """
        self._check_write()
        with self._errors("save", name):
            self._put(name, body, "overwrite")

    def replace_from(self, name: str, chunks: Iterable[bytes]) -> None:
        """Save chunks of bytes as one object; replace an existing object.

        The chunks are first written to a temporary file on this machine. A large object is then sent in several parts,
        and appears when all parts are sent. If this process dies, the invisible parts stay in the store until a rule of
        the bucket removes them.

        Raises:
            StorageError: the bytes can't be saved; an existing object is unchanged.
            Exception: ``chunks`` raised it; an existing object is unchanged.
        """
        import obstore

        self._check_write()
        # The client would take the chunks in a thread of its own, where they could not read from this store.
        with tempfile.NamedTemporaryFile(prefix="imagefleet-") as file:
            try:
                file.writelines(chunks)
                file.flush()
            except OSError as error:
                raise StorageError(f"could not save {name}: no temporary file can be written: {error}") from error
            with self._errors("save", name):
                obstore.put(
                    self._client,
                    name,
                    Path(file.name),
                    chunk_size=_PART_BYTES,
                    max_concurrency=_PARALLEL_PARTS,
                )

    def open_file(self, name: str) -> BinaryIO:
        """Open an object that can be read from any position. Reading a block takes one request.

        Raises:
            StorageError: the object can't be read. Reading the open file can raise this error, too, for example if the
                object has changed.
        """
        import obstore

        with self._errors("read", name):
            found = obstore.head(self._client, name)
        return BufferedReader(ObjectFile(found["size"], partial(self._read_part, name, found["e_tag"])))

    def remove_folder(self, name: str) -> None:
        """Do nothing, because an object store has no folders."""

    def replace_version(self, name: str, body: bytes, version: Version) -> Version | None:
        """Replace an object if it still has this version, and return the new version; None if the object has changed.

        Raises:
            StorageError: it is unknown whether the object was replaced.
        """
        from obstore.exceptions import PreconditionError

        with self._errors("save", name), suppress(PreconditionError, FileNotFoundError):
            return self._put(name, body, dict(version))
        return None

    def list_files(self, folder: str) -> list[str]:
        """Return the names of the objects directly in a folder.

        Raises:
            StorageError: the folder can't be listed.
        """
        return [str(found["path"]) for found in self._list(folder)["objects"]]

    def list_entries(self) -> list[str]:
        """Return the names of all objects and folders at the top level.

        Raises:
            StorageError: the folder can't be listed.
        """
        found = self._list(None)
        return sorted([*map(str, found["common_prefixes"]), *(str(item["path"]) for item in found["objects"])])

    def contains_files(self, name: str) -> bool:
        """Return whether a name is an object, or a folder with an object below it.

        Raises:
            StorageError: the store can't be queried.
        """
        return self.exists(name) or self.folder_exists(name)

    def remove(self, name: str) -> None:
        """Remove an object if it exists.

        Raises:
            StorageError: the object can't be removed.
        """
        import obstore

        self._check_write()
        with self._errors("remove", name), suppress(FileNotFoundError):
            obstore.delete(self._client, name)

    def sync(self, folder: str, names: Iterable[str]) -> None:
        """Do nothing, because each saved object is durable."""

    def create_folder(self) -> None:
        """Do nothing, because an object store has no folders."""

    def check_writable(self) -> None:
        """Check that objects can be written and removed, and that the first of two writers of a name wins.

        Raises:
            StorageError: the folder can't be written, or the store ignores the conditions of a write.
        """
        name = f"{_PROBE}-{secrets.token_hex(8)}"
        first = self.create_version(name, b"1")
        try:
            if first is None or self.create_version(name, b"2") is not None or self.read(name) != b"1":
                raise StorageError(
                    "the object store ignores `If-None-Match: *`, so two workers could overwrite each other's files; "
                    "use a store with conditional writes"
                )
            second = self.replace_version(name, b"3", first)
            if second is None or self.replace_version(name, b"4", first) is not None:
                raise StorageError(
                    "the object store ignores `If-Match`, so two producers could work on one run; use a store with "
                    "conditional writes"
                )
        finally:
            self.remove(name)

    @contextmanager
    def scratch_folder(self, name: str) -> Iterator[Path]:
        """Yield the path of a folder for temporary files of this process, on this machine."""
        with tempfile.TemporaryDirectory(prefix=f"imagefleet-{name}-") as folder:
            yield Path(folder) / name

    def remove_temporary_folder(self) -> None:
        """Do nothing, because there are no temporary names."""

    def remove_leftovers(self) -> None:
        """Do nothing, because a killed writer leaves no part of an object."""

    def _check_write(self) -> None:
        if self.before_write is not None:
            self.before_write()

    def _put(self, name: str, body: bytes, mode: Any) -> Version:
        import obstore

        # A large object in several parts would need more requests, and its parts would remain if the writer dies.
        return _version(obstore.put(self._client, name, body, mode=mode, use_multipart=False))

    def _read_part(self, name: str, e_tag: str | None, start: int, end: int) -> bytes:
        import obstore
        from obstore.exceptions import PreconditionError

        with self._errors("read", name):
            try:
                found = obstore.get(self._client, name, options={"range": (start, end), "if_match": e_tag})
                return bytes(found.bytes())
            except PreconditionError:
                raise StorageError(f"could not read {name}: it has changed meanwhile") from None

    def _list(self, folder: str | None) -> Any:
        import obstore

        with self._errors("list", folder or self.location):
            return obstore.list_with_delimiter(self._client, folder)

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        """Translate the client's errors."""
        try:
            yield
        except Exception as error:
            if not is_the_stores(error):
                raise
            # The cause is left out, because its text may have the credentials' id.
            raise self._error(verb, name, error) from None

    def _error(self, verb: str, name: str, error: Exception) -> StorageError:
        return StorageError(f"could not {verb} {name}: {explain(error, self.url)}")


def connect(url: StoreUrl) -> Client:
    """Return the client for a folder.

    Raises:
        StorageError: the client is not installed, or the environment has an invalid setting for it.
    """
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError as error:
        raise StorageError(
            f"{url} needs the extra `objects` of imagefleet, which is not installed here; install it with "
            "`pip install 'imagefleet[objects]'`"
        ) from error
    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[url.scheme]
    backoff = {
        "init_backoff": timedelta(seconds=_FIRST_BACKOFF_SECONDS),
        "max_backoff": timedelta(seconds=_MAX_BACKOFF_SECONDS),
        "base": 2,
    }
    try:
        client: Client = kind(
            url.bucket,
            prefix=url.prefix or None,
            client_options={
                # Only an endpoint that the operator sets in the environment can have the scheme http.
                "allow_http": True,
                "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
            },
            retry_config={
                "max_retries": _MAX_RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                "backoff": backoff,
            },
        )
    except Exception as error:
        if not is_the_stores(error):
            raise
        raise StorageError(f"the client for {url} can't be created: {explain(error, url)}") from None
    return client


def _version(facts: Mapping[str, Any]) -> Version:
    return {key: str(facts[key]) for key in ("e_tag", "version") if facts.get(key)}
