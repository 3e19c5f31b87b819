"""Write a shard as a tar for the `webdataset` package, and read the images of such a tar.

A sample is a group of members with the same key: the image (``00000007.jpg``), its metadata (``00000007.json``) and, if
the list has captions, its caption (``00000007.txt``). The tar is deterministic: members have no time and no owner.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa

from tasks.model import shard_name
from tasks.outputs.samples import ImagePlace, SampleImage, captions, metadata

METADATA_EXTENSION, CAPTION_EXTENSION = "json", "txt"
_BLOCK_BYTES = 512
#: The fields of a header (POSIX ustar) that are the same for each member: mode, owner and group; time; and everything
#: after the checksum, from the type on.
_NAME_BYTES = 100
_MODE_AND_OWNER = b"\0".join((b"0000644", b"0000000", b"0000000", b""))
_TIME = b"0" * 11 + b"\0"
_REST = (b"0" + bytes(100) + b"ustar\x00" + b"00").ljust(_BLOCK_BYTES - 156, b"\0")
#: The checksum is the sum of the header's bytes, where spaces stand in place of the checksum itself.
_FIXED_CHECKSUM = sum(_MODE_AND_OWNER + _TIME + b" " * 8 + _REST)


def name(shard: int) -> str:
    """Return the name of a shard's tar, relative to the run's folder."""
    return f"{shard_name(shard)}.tar"


def encode(rows: pa.Table, images: Iterable[SampleImage]) -> Iterator[bytes]:
    """Yield the bytes of the tar, one sample at a time.

    Args:
        rows: the samples' rows, as `sample_rows` returns them.
        images: the samples' images, in the same order.
    """
    for image, facts, caption in zip(images, metadata(rows), captions(rows), strict=True):
        yield _member(image.key, image.extension, image.body)
        yield _member(image.key, METADATA_EXTENSION, facts)
        if caption is not None:
            yield _member(image.key, CAPTION_EXTENSION, caption)
    # Two empty blocks end a tar.
    yield bytes(2 * _BLOCK_BYTES)


def images(file: BinaryIO) -> Iterator[SampleImage]:
    """Yield the images of a tar, in its order.

    Raises:
        ValueError: the file is not a tar, or the end of the tar is missing.
    """
    for member, found in _members(file):
        yield SampleImage(*found, _extracted(file, member))


def sizes(file: BinaryIO) -> dict[str, int]:
    """Map the key of each image in a tar to the image's size. Only the headers are read.

    Raises:
        ValueError: the file is not a tar, or the end of the tar is missing.
    """
    return {key: member.size for member, (key, _) in _members(file)}


def places(file: BinaryIO) -> dict[str, ImagePlace]:
    """Return the place of each image in a tar, by the image's key: its offset and its size. Only the headers are read.

    Raises:
        ValueError: the file is not a tar, or the end of the tar is missing.
    """
    return {key: ImagePlace(member.offset_data, member.size) for member, (key, _) in _members(file)}


def read_image(file: BinaryIO, place: ImagePlace) -> bytes:
    """Return the image at a place of a tar."""
    file.seek(place.first)
    return file.read(place.second)


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, tuple[str, str]]]:
    """Yield the members that are images, with their keys and extensions."""
    try:
        file.seek(-2 * _BLOCK_BYTES, os.SEEK_END)
        if file.read().strip(b"\0") or file.tell() % _BLOCK_BYTES:
            raise ValueError("its end is missing")
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension not in (METADATA_EXTENSION, CAPTION_EXTENSION):
                    yield member, (key, extension)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"it is not a tar: {error}") from error


def _extracted(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    # `tarfile` seeks before it reads the next header.
    file.seek(member.offset_data)
    return file.read(member.size)


def _member(key: str, extension: str, body: bytes) -> bytes:
    """Return a member of a tar: its header, and its content padded to whole blocks.

    `tarfile` would take ten times as long for the header.
    """
    name, size = f"{key}.{extension}".encode(), b"%011o\0" % len(body)
    checksum = b"%06o\0 " % (_FIXED_CHECKSUM + sum(name) + sum(size))
    header = b"".join((name.ljust(_NAME_BYTES, b"\0"), _MODE_AND_OWNER, size, _TIME, checksum, _REST))
    return b"".join((header, body, bytes(-len(body) % _BLOCK_BYTES)))
