"""The interface of a run's output folder.

Each file is either complete or absent, and the first writer of a name wins.

`LocalStore` (``local_store.py``) is a folder on a local or shared file system.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

#: The mode of files that only their owner may read, because they contain the list's URLs unchanged, including any
#: secrets.
PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o666


class Store(ABC):
    """A run's output folder. Names are relative, with ``/`` between parts."""

    @property
    @abstractmethod
    def location(self) -> str:
        """The folder's name in messages, run.json and requests to workers. A user can give this name to a command."""

    @abstractmethod
    def describe(self, name: str) -> str:
        """Return the full name of a file or folder, for messages."""

    @abstractmethod
    def is_within(self, other: Store) -> bool:
        """Return whether this folder is the other store's folder, or is below that folder."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether a file of this name exists.

        Raises:
            StorageError: the store can't be queried.
        """

    @abstractmethod
    def folder_exists(self, name: str) -> bool:
        """Return whether a folder of this name exists.

        Raises:
            StorageError: the store can't be queried.
        """

    @abstractmethod
    def file_size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is no regular file of this name.

        Raises:
            StorageError: the store can't be queried.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StorageError: the file can't be read.
        """

    @abstractmethod
    def create(self, name: str, body: bytes, mode: int = PUBLIC_MODE) -> bool:
        """Save bytes as a new file. If the file exists, return False and change nothing.

        Raises:
            StorageError: the bytes can't be saved; no part of them remains.
        """

    @abstractmethod
    def create_linked(self, name: str, body: bytes, source: Store, source_name: str) -> bool:
        """Save bytes as `create` does. If possible, share the space of a file that already contains these bytes.

        Args:
            name: the new name.
            body: the bytes.
            source: the store with the existing file.
            source_name: the name of the existing file there. If the content of this file has changed, its space is not
                shared.

        Raises:
            StorageError: the bytes can't be saved; no part of them remains.
        """

    @abstractmethod
    def create_durably(self, name: str, body: bytes) -> bool:
        """Sync private bytes to disk, then save them as a new file. If the file exists, return False.

        Raises:
            StorageError: the bytes can't be saved; no part of them remains.
        """

    @abstractmethod
    def replace(self, name: str, body: bytes, mode: int = PRIVATE_MODE) -> None:
        """Save bytes under a name and sync them to disk; replace an existing file.

        Raises:
            StorageError: the bytes can't be saved; an existing file is unchanged.
        """

    @abstractmethod
    def replace_from(self, name: str, chunks: Iterable[bytes]) -> None:
        """Save chunks of private bytes as one file and sync it to disk; replace an existing file.

        Raises:
            StorageError: the bytes can't be saved; an existing file is unchanged.
            Exception: ``chunks`` raised it; an existing file is unchanged.
        """

    @abstractmethod
    def open_file(self, name: str) -> BinaryIO:
        """Open a file that can be read from any position, without loading all of it. The caller closes the file.

        Raises:
            StorageError: the file can't be read. Reading the open file can raise this error too.
        """

    @abstractmethod
    def remove_folder(self, name: str) -> None:
        """Remove a folder if it is empty. In a store without folders, this method does nothing."""

    @abstractmethod
    def list_files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; an empty list if the folder does not exist.

        Raises:
            StorageError: the folder can't be listed.
        """

    @abstractmethod
    def list_entries(self) -> list[str]:
        """Return the names of all files and folders at the top level; empty if the output folder does not exist.

        Raises:
            StorageError: the folder can't be listed.
        """

    @abstractmethod
    def contains_files(self, name: str) -> bool:
        """Return whether a name is a file, or a folder with a file in it.

        Raises:
            StorageError: the folder can't be listed.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists.

        Raises:
            StorageError: the file can't be removed.
        """

    @abstractmethod
    def sync(self, folder: str, names: Iterable[str]) -> None:
        """Sync files and their folder to disk.

        Raises:
            StorageError: a file or the folder can't be synced.
        """

    @abstractmethod
    def create_folder(self) -> None:
        """Create the output folder if it is missing.

        Raises:
            StorageError: the folder can't be created. The error's message gives only the reason.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Write and remove a file.

        Raises:
            StorageError: the folder can't be written.
        """

    @abstractmethod
    def scratch_folder(self, name: str) -> AbstractContextManager[Path]:
        """Return a context manager whose value is the path of a local folder with this name.

        The folder is for temporary files of this process. It may not exist yet. The folder is removed at the end of the
        context.
        """

    @abstractmethod
    def remove_temporary_folder(self) -> None:
        """Remove the folder of temporary files, unless a file is being written there."""

    @abstractmethod
    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed writers. Call this only when nothing more needs to be written."""
