"""Where bytes go: a run's folder, in which a file is whole or absent, and the first writer wins.

A file is written under a temporary name in ``.tmp`` and then given its final name by ``link``, which fails where the
name is taken. Where the file system has no hard links, an exclusive lock file stands in for that: slower, and the name
appears by ``rename``. Neither syncs: that is done once for a shard, before its manifest is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

from tasks import disk
from tasks.descriptors import IDLE, patient
from tasks.errors import StorageFailed

_T = TypeVar("_T")
TEMPORARY = ".tmp"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
#: Tells this process's temporary names from those of others, on whatever machine; asking for random bytes for each file
#: would be a system call more.
_PROCESS, _numbers = secrets.token_hex(8), count()
#: Seconds after which a claimed name without a file counts as left by a writer that died.
_CLAIM_LIFETIME = 5.0
#: What only its owner may read: URLs stand there as they were given, with their secrets.
PRIVATE = 0o600
PUBLIC = 0o666


class Store:
    """A run's output folder on a local or shared file system. Names are relative, with ``/`` between parts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def below(cls, root: str, allowed: Iterable[Path]) -> Store:
        """Return the Store at ``root``, if it is one of the allowed folders or below one.

        Raises:
            StorageFailed: it is not; links in the path count for what they point at.
        """
        path = Path(root)
        # A zero byte is no part of a path, and resolving one raises.
        real = path.resolve() if "\0" not in root else None
        if real is None or not path.is_absolute() or not any(real.is_relative_to(base) for base in allowed):
            raise StorageFailed(
                f"this worker may not write to {root} (its operator can allow it with IMAGEFLEET_STORE_ROOTS)"
            )
        return cls(real)

    def path(self, name: str) -> Path:
        """Return where a name is on the file system."""
        return self.root / name

    def exists(self, name: str) -> bool:
        """Tell whether a file of this name stands."""
        return os.path.exists(f"{self.root}/{name}")  # noqa: PTH110  # on the hot path; Path.exists costs twice as much

    @patient
    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            StorageFailed: it can't be read.
        """
        try:
            return self.path(name).read_bytes()
        except OSError as error:
            raise _failed("read", name, error) from error

    @patient
    def create(self, name: str, body: bytes, mode: int = PUBLIC) -> bool:
        """Save bytes under a name that nobody has taken; return False, and change nothing, if somebody has.

        Raises:
            StorageFailed: they can't be saved; nothing of them is left.
        """
        try:
            return self._put(body, mode, partial(self._claim, target=f"{self.root}/{name}"))
        except OSError as error:
            raise _failed("save", name, error) from error

    @patient
    def create_linked(self, name: str, body: bytes, file: Path) -> bool:
        """Save bytes under a free name, as `create` does, where a file elsewhere on the disk holds them already.

        The file gets the name as a second one, by a hard link, and nothing is written. Where that can't be, or the file
        holds something else by now, the bytes are written as any others.

        Raises:
            StorageFailed: they can't be saved; nothing of them is left.
        """
        temporary = self._temporary()
        try:
            try:
                os.link(file, temporary, follow_symlinks=False)
            except FileNotFoundError:
                self._make_temporary()
                os.link(file, temporary, follow_symlinks=False)
            # Not the file but what has the temporary name: that is what gets the final one.
            same = not os.path.islink(temporary) and Path(temporary).read_bytes() == body  # noqa: PTH114  # a str
        except OSError:
            same = False
        try:
            return self._claim(temporary, f"{self.root}/{name}") if same else self.create(name, body)
        except OSError as error:
            raise _failed("save", name, error) from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108  # the temporary name is a str

    @patient
    def replace(self, name: str, body: bytes, mode: int = PRIVATE) -> None:
        """Save bytes under a name, durably, in place of what was there.

        Raises:
            StorageFailed: they can't be saved; what was there still stands.
        """
        try:
            self._put(body, mode, lambda temporary: Path(temporary).replace(self.path(name)), sync=True)
            disk.sync(self.path(name).parent)
        except OSError as error:
            raise _failed("save", name, error) from error

    @patient
    def create_durably(self, name: str, body: bytes) -> bool:
        """Save private bytes under a free name, on the disk before they have it; return False if it is taken.

        Raises:
            StorageFailed: they can't be saved; nothing of them is left.
        """
        try:
            created = self._put(body, PRIVATE, partial(self._claim, target=f"{self.root}/{name}"), sync=True)
            disk.sync(self.path(name).parent)
        except OSError as error:
            raise _failed("save", name, error) from error
        return created

    @patient
    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; none where the folder does not exist.

        Raises:
            StorageFailed: it can't be listed.
        """
        try:
            with os.scandir(self.path(folder)) as entries:
                # Folders are not ours: some file servers keep thumbnails in them.
                return [f"{folder}/{entry.name}" for entry in entries if not entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed("list", folder, error) from error

    @patient
    def entries(self) -> list[str]:
        """Return the names of all that stands at the top; none where the folder itself does not exist.

        Raises:
            StorageFailed: it can't be listed.
        """
        try:
            return sorted(os.listdir(self.root))  # noqa: PTH208  # names are wanted, not paths
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed("list", str(self.root), error) from error

    @patient
    def holds_files(self, name: str) -> bool:
        """Tell whether a name is a file, or a folder with a file in it.

        Raises:
            StorageFailed: the folder can't be listed.
        """
        try:
            with os.scandir(self.path(name)) as entries:
                return any(entry.is_file(follow_symlinks=False) for entry in entries)
        except NotADirectoryError:
            return True
        except OSError as error:
            raise _failed("list", name, error) from error

    def remove_temporary(self) -> None:
        """Remove the folder of temporary files, if nothing is being written."""
        with suppress(OSError):
            self.path(TEMPORARY).rmdir()

    def remove_left(self) -> None:
        """Remove what killed writers have left; to be called when nothing is worth writing any more."""
        shutil.rmtree(self.path(TEMPORARY), ignore_errors=True)

    @patient
    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageFailed: it can't be removed.
        """
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", name, error) from error

    @patient
    def sync(self, folder: str, names: Iterable[str]) -> None:
        """Put the named files and their folder on the disk.

        Raises:
            StorageFailed: one can't be.
        """
        try:
            disk.sync_all(self.path(folder), [f"{self.root}/{name}" for name in names])
        except OSError as error:
            raise _failed("sync", folder, error) from error

    def _put(self, body: bytes, mode: int, give_name: Callable[[str], _T], sync: bool = False) -> _T:
        """Write a temporary file, and return what giving it a name returns; nothing of it is left if that fails."""
        # Paths are texts here, and no generator is in the way: this is done for each image.
        temporary = self._temporary()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileNotFoundError:
            self._make_temporary()
            descriptor = os.open(temporary, flags, mode)
        IDLE.make_room(descriptor)
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

    def _temporary(self) -> str:
        return f"{self.root}/{TEMPORARY}/{_PROCESS}-{os.getpid()}-{next(_numbers)}"

    def _make_temporary(self) -> None:
        os.makedirs(f"{self.root}/{TEMPORARY}", exist_ok=True)  # noqa: PTH103  # the root is a str here

    def _claim(self, temporary: str, target: str) -> bool:
        """Give a temporary file its name, if the name is free."""
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
                if error.errno not in _NO_LINKS:
                    raise
                return self._claim_without_links(temporary, Path(target))
            else:
                return True
        raise AssertionError("unreachable")

    @staticmethod
    def _claim_without_links(temporary: str, target: Path) -> bool:
        """Claim a name by an exclusive file beside it, for as long as the rename takes."""
        claim = target.with_name(f".{target.name}.claim")
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        except FileExistsError:
            # The other writer has a rename to do. If it takes this long, it died in between.
            ends = monotonic() + _CLAIM_LIFETIME
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


def _failed(verb: str, name: str, error: OSError) -> StorageFailed:
    return StorageFailed(f"could not {verb} {name}: {error.strerror or error}")
