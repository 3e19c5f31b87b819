"""Read the file of an image. The path comes from a manifest, so it is not trusted: nothing outside the folder is read.

A manifest may come from somebody else. On a local disk, no part of the path may be a link, because a link could lead
out of the folder.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from producer.gallery.content_types import TypedImage, content_type
from tasks.errors import StorageError
from tasks.model import OutputFormat, OutputOptions
from tasks.outputs import packing
from tasks.outputs.samples import ImagePlace
from tasks.storage.local_store import LocalStore
from tasks.storage.store import Store

#: The number of packed files whose lists of images stay in memory.
_CACHED_LISTS = 8


class ImageUnavailableError(Exception):
    """The image of a row can't be shown. The message says why."""


class ImageReader:
    """Reads the images of a run, from files of their own or from packed files. Threads may share it."""

    def __init__(self, store: Store, output: OutputOptions) -> None:
        self._store, self._output = store, output
        self._places: OrderedDict[tuple[str, int], Mapping[str, ImagePlace]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, key: str, path: str) -> TypedImage:
        """Return an image.

        Args:
            key: the image's key.
            path: the path of its file in the output folder, or of the packed file with the image.

        Raises:
            ImageUnavailableError: the path leaves the folder, the file can't be read, or it is not an image.
        """
        check_path(path)
        try:
            with _open(self._store, path) as file:
                body = file.read() if self._output.format is OutputFormat.FILES else self._unpack(file, key, path)
        except (StorageError, OSError) as error:
            raise ImageUnavailableError(f"{path} can't be read: {error}.") from error
        except ValueError as error:
            raise ImageUnavailableError(f"{path} is damaged: {error}.") from error
        found = content_type(body)
        if found is None:
            raise ImageUnavailableError(f"{path} is not an image of a known format.")
        return TypedImage(body, found)

    def _unpack(self, file: BinaryIO, key: str, path: str) -> bytes:
        place = self._list(file, path).get(key)
        if place is None:
            raise ImageUnavailableError(f"The image {key} is not in {path}.")
        return packing.read_image(file, place, self._output)

    def _list(self, file: BinaryIO, path: str) -> Mapping[str, ImagePlace]:
        """Return the places of the images in a packed file."""
        # A retry adds images to a file. So if the size has changed, the places have changed, too.
        name = path, file.seek(0, os.SEEK_END)
        # One thread lists a file, and the other threads use its list.
        with self._lock:
            if name not in self._places:
                self._places[name] = packing.image_places(file, self._output)
                if len(self._places) > _CACHED_LISTS:
                    self._places.popitem(last=False)
            self._places.move_to_end(name)
            return self._places[name]


def check_path(path: str) -> None:
    """Check that a path of a manifest stays in the output folder. No file is opened, so a link is not noticed.

    Raises:
        ImageUnavailableError: the path leaves the folder.
    """
    if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ImageUnavailableError(f"The manifest names the file {path!a:.200}, which is not in the output folder.")


def _open(store: Store, path: str) -> BinaryIO:
    return _open_below(store.root, path) if isinstance(store, LocalStore) else store.open_file(path)


def _open_below(root: Path, path: str) -> BinaryIO:
    """Open a regular file below a folder, without following links.

    Raises:
        ImageUnavailableError: there is no such file.
        OSError: the file can't be opened.
    """
    # Each folder is opened from its parent, so no other process can replace a checked folder by a link.
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    *parents, name = path.split("/")
    try:
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # With O_NONBLOCK, a named pipe is opened at once instead of blocking.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise ImageUnavailableError(f"{path} is not in the output folder.") from None
    finally:
        os.close(folder)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return open(file, "rb")  # noqa: PTH123  # a descriptor, not a path
    os.close(file)
    raise ImageUnavailableError(f"{path} is not a file.")
