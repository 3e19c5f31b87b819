"""Save files in a folder on a local or shared file system.

A file is written under a temporary name in ``.tmp``, then hard-linked to its final name. The call ``link`` fails if the
final name is taken. On file systems without hard links, an exclusive lock file and ``rename`` are used instead, which
is slower. Neither ``link`` nor ``rename`` syncs the file to disk. A shard's files are synced together, before its
manifest is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import BinaryIO, TypeVar

from tasks.errors import StorageError
from tasks.file_descriptors import IDLE_CONNECTIONS, retry_when_exhausted
from tasks.storage import fsync
from tasks.storage.store import PRIVATE_MODE, PUBLIC_MODE, Store

_T = TypeVar("_T")
TEMPORARY_FOLDER = ".tmp"
_NO_LINK_ERRNOS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
#: Makes this process's temporary names unique among all processes on all machines. Random bytes would cost another
#: system call for each file.
_PROCESS_TOKEN, _numbers = secrets.token_hex(8), count()
#: Seconds after which a claim counts as left over by a dead writer, if no file has the claimed name.
_CLAIM_TTL_SECONDS = 5.0
#: The file written by `LocalStore.check_writable`.
_PROBE = ".probe"
_BUFFER_BYTES = 1024 * 1024


class LocalStore(Store):
    """A run's output folder on a local or shared file system. `Store` documents the methods and their errors."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open_allowed(cls, root: str, allowed: Iterable[Path]) -> LocalStore:
        """Return the store at ``root``, if this path is an allowed folder or below an allowed folder.

        Raises:
            StorageError: the path is neither. Links in the path are resolved before the check.
        """
        path = Path(root)
        # No valid path contains a zero byte, and resolving a path with one raises an error.
        real = path.resolve() if "\0" not in root else None
        if real is None or not path.is_absolute() or not any(real.is_relative_to(base) for base in allowed):
            raise StorageError(
                f"this worker may not write to {root} (its operator can allow it with IMAGEFLEET_STORE_ROOTS)"
            )
        return cls(real)

    @property
    def location(self) -> str:
        """The folder's path."""
        return str(self.root)

    def describe(self, name: str) -> str:
        """Return the path of a name."""
        return str(self.path(name))

    def is_within(self, other: Store) -> bool:
        """Return whether this folder is the other store's folder, or is below that folder."""
        return isinstance(other, LocalStore) and self.root.is_relative_to(other.root)

    def path(self, name: str) -> Path:
        """Return the path of a name on the file system."""
        return self.root / name

    def exists(self, name: str) -> bool:
        """Return whether a file of this name exists."""
        return os.path.exists(f"{self.root}/{name}")  # noqa: PTH110  # on the hot path; Path.exists costs twice as much

    def folder_exists(self, name: str) -> bool:
        """Return whether a folder of this name exists."""
        return self.path(name).is_dir()

    def file_size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if there is no regular file of this name. The file is not read."""
        try:
            status = os.lstat(f"{self.root}/{name}")
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @retry_when_exhausted
    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        try:
            # This also runs for each image that is packed. `Path.read_bytes` would make twice as many system calls.
            descriptor = os.open(f"{self.root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _read_all(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _storage_error("read", name, error) from error

    @retry_when_exhausted
    def create(self, name: str, body: bytes, mode: int = PUBLIC_MODE) -> bool:
        """Save bytes as a new file. If the file exists, return False and change nothing."""
        try:
            return self._write_temporary(body, mode, partial(self._claim, target=f"{self.root}/{name}"))
        except OSError as error:
            raise _storage_error("save", name, error) from error

    @retry_when_exhausted
    def create_linked(self, name: str, body: bytes, source: Store, source_name: str) -> bool:
        """Save bytes as `create` does, but reuse a file elsewhere on the disk if it already contains these bytes.

        The name becomes a hard link to that file, and nothing is written. If the file can't be linked, or its
        content has changed, the bytes are written as usual."""
        if not isinstance(source, LocalStore):
            return self.create(name, body)
        temporary, file = self._temporary(), source.path(source_name)
        try:
            try:
                os.link(file, temporary, follow_symlinks=False)
            except FileNotFoundError:
                self._make_temporary()
                os.link(file, temporary, follow_symlinks=False)
            # Read through the link, because the link gets the final name. By now, ``file`` may be the name of another
            # file.
            same = not os.path.islink(temporary) and Path(temporary).read_bytes() == body  # noqa: PTH114  # a str
        except OSError:
            same = False
        try:
            return self._claim(temporary, f"{self.root}/{name}") if same else self.create(name, body)
        except OSError as error:
            raise _storage_error("save", name, error) from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108  # the temporary name is a str

    @retry_when_exhausted
    def replace(self, name: str, body: bytes, mode: int = PRIVATE_MODE) -> None:
        """Save bytes under a name and sync them to disk; replace an existing file."""
        try:
            self._write_temporary(body, mode, lambda temporary: Path(temporary).replace(self.path(name)), sync=True)
            fsync.sync(self.path(name).parent)
        except OSError as error:
            raise _storage_error("save", name, error) from error

    def replace_from(self, name: str, chunks: Iterable[bytes]) -> None:
        """Save chunks of private bytes as one file and sync it to disk; replace an existing file."""
        try:
            temporary, descriptor = retry_when_exhausted(self._open_temporary)(PRIVATE_MODE)
            try:
                with open(descriptor, "wb", _BUFFER_BYTES) as file:  # noqa: PTH123  # a descriptor, not a path
                    file.writelines(chunks)
                    file.flush()
                    os.fsync(descriptor)
                self.path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(temporary).replace(self.path(name))
            finally:
                Path(temporary).unlink(missing_ok=True)
            fsync.sync(self.path(name).parent)
        except OSError as error:
            raise _storage_error("save", name, error) from error

    @retry_when_exhausted
    def open_file(self, name: str) -> BinaryIO:
        """Open a file that can be read from any position."""
        try:
            return self.path(name).open("rb")
        except OSError as error:
            raise _storage_error("read", name, error) from error

    def remove_folder(self, name: str) -> None:
        """Remove a folder if it is empty."""
        with suppress(OSError):
            self.path(name).rmdir()

    @retry_when_exhausted
    def create_durably(self, name: str, body: bytes) -> bool:
        """Sync private bytes to disk, then save them as a new file. If the file exists, return False."""
        try:
            created = self._write_temporary(
                body, PRIVATE_MODE, partial(self._claim, target=f"{self.root}/{name}"), sync=True
            )
            fsync.sync(self.path(name).parent)
        except OSError as error:
            raise _storage_error("save", name, error) from error
        return created

    @retry_when_exhausted
    def list_files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; an empty list if the folder does not exist."""
        try:
            with os.scandir(self.path(folder)) as entries:
                # Subfolders are not ours, because some file servers keep thumbnails in them.
                return [f"{folder}/{entry.name}" for entry in entries if not entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _storage_error("list", folder, error) from error

    @retry_when_exhausted
    def list_entries(self) -> list[str]:
        """Return the names of all files and folders at the top level; empty if the output folder does not exist."""
        try:
            return sorted(os.listdir(self.root))  # noqa: PTH208  # names are wanted, not paths
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _storage_error("list", str(self.root), error) from error

    @retry_when_exhausted
    def contains_files(self, name: str) -> bool:
        """Return whether a name is a file, or a folder with a file in it."""
        try:
            with os.scandir(self.path(name)) as entries:
                return any(entry.is_file(follow_symlinks=False) for entry in entries)
        except NotADirectoryError:
            return True
        except OSError as error:
            raise _storage_error("list", name, error) from error

    def create_folder(self) -> None:
        """Create the output folder if it is missing."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(error.strerror or str(error)) from error

    def check_writable(self) -> None:
        """Write and remove a file."""
        self.replace(_PROBE, b"")
        self.remove(_PROBE)
        self.remove_temporary_folder()

    @contextmanager
    def scratch_folder(self, name: str) -> Iterator[Path]:
        """Yield the path of a folder for temporary files of this process, below the folder of temporary files."""
        path = self.path(f"{TEMPORARY_FOLDER}/{name}")
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def remove_temporary_folder(self) -> None:
        """Remove the folder of temporary files, unless a file is being written there."""
        with suppress(OSError):
            self.path(TEMPORARY_FOLDER).rmdir()

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed writers. Call this only when nothing more needs to be written."""
        shutil.rmtree(self.path(TEMPORARY_FOLDER), ignore_errors=True)

    @retry_when_exhausted
    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        try:
            os.unlink(f"{self.root}/{name}")  # noqa: PTH108  # runs for each image that was packed
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _storage_error("remove", name, error) from error

    @retry_when_exhausted
    def sync(self, folder: str, names: Iterable[str]) -> None:
        """Sync files and their folder to disk."""
        try:
            fsync.sync_all(self.path(folder), [f"{self.root}/{name}" for name in names])
        except OSError as error:
            raise _storage_error("sync", folder, error) from error

    def _write_temporary(self, body: bytes, mode: int, give_name: Callable[[str], _T], sync: bool = False) -> _T:
        """Write a temporary file, and return the result of ``give_name``. At the end, remove the temporary name."""
        # This runs for each image. For speed, paths are strings, and there is no generator.
        temporary, descriptor = self._open_temporary(mode)
        try:
            try:
                rest = memoryview(body)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return give_name(temporary)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108  # the temporary name is a str

    def _open_temporary(self, mode: int) -> tuple[str, int]:
        """Create a temporary file; return its path and its descriptor."""
        temporary = self._temporary()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileNotFoundError:
            self._make_temporary()
            descriptor = os.open(temporary, flags, mode)
        IDLE_CONNECTIONS.make_room(descriptor)
        return temporary, descriptor

    def _temporary(self) -> str:
        return f"{self.root}/{TEMPORARY_FOLDER}/{_PROCESS_TOKEN}-{os.getpid()}-{next(_numbers)}"

    def _make_temporary(self) -> None:
        os.makedirs(f"{self.root}/{TEMPORARY_FOLDER}", exist_ok=True)  # noqa: PTH103  # the root is a str here

    def _claim(self, temporary: str, target: str) -> bool:
        """Give a temporary file its final name, if this name is free."""
        for attempt in (1, 2):
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except FileNotFoundError:
                if attempt == 2:
                    raise
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                if error.errno not in _NO_LINK_ERRNOS:
                    raise
                return self._claim_without_links(temporary, Path(target))
            else:
                return True
        raise AssertionError("unreachable")

    @staticmethod
    def _claim_without_links(temporary: str, target: Path) -> bool:
        """Rename a temporary file to its final name. Meanwhile, an exclusive file beside it claims the name."""
        claim = target.with_name(f".{target.name}.claim")
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))
        except FileExistsError:
            # The other writer only has to rename its file. If the rename takes as long as this wait, the other writer
            # is dead.
            ends = monotonic() + _CLAIM_TTL_SECONDS
            while monotonic() < ends:
                if target.exists():
                    return False
                sleep(0.01)
        try:
            if target.exists():
                return False
            os.rename(temporary, target)  # noqa: PTH104  # the temporary name is a str
            return True
        finally:
            claim.unlink(missing_ok=True)


def _read_all(descriptor: int) -> bytes:
    """Return the bytes from a descriptor's position to the end of its file."""
    size = os.fstat(descriptor).st_size
    body = os.read(descriptor, size)
    if len(body) == size:
        return body
    # One call reads at most 2 GiB, and another process may have truncated the file.
    pieces = [body]
    while piece := os.read(descriptor, size):
        pieces.append(piece)
    return b"".join(pieces)


def _storage_error(verb: str, name: str, error: OSError) -> StorageError:
    return StorageError(f"could not {verb} {name}: {error.strerror or error}")
