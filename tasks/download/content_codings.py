"""Decode content and transfer codings while a body is read (RFC 9110, section 8.4; RFC 9112, section 7). No I/O.

Headers can be wrong, so the data is checked too. A body that begins as an image is not compressed, whatever its headers
say. If a header names a coding twice, the coding may still have been applied only once.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import brotli

from tasks.errors import BadResponseError, TruncatedError
from tasks.image_signatures import SIGNATURE_BYTES, begins_as_image

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: The maximum number of codings decoded for one body. No correct server uses more than two.
_MAX_CODINGS = 5
#: The approximate number of bytes a decoder returns at once.
_PIECE_BYTES = 64 * 1024
_GZIP_MEMBER = b"\x1f\x8b"
#: The magic numbers of a zstd frame and of the 16 kinds of skippable frames, in the byte order of the data.
_ZSTD_FRAMES = (b"\x28\xb5\x2f\xfd", *(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60)))


class _IncompleteError(Exception):
    """The compressed data is incomplete."""


def parse(value: str) -> list[str]:
    """Return a header's codings without parameters, in the order in which they were applied."""
    names = (item.partition(";")[0].strip() for item in value.lower().split(","))
    return [name for name in names if name not in ("", "identity")]


def decode(pieces: Iterable[bytes], names: Sequence[str], status: int) -> Iterator[bytes]:
    """Return the decoded body in pieces. A decoder's pieces have at most about 64 KiB.

    Args:
        pieces: the encoded body.
        names: the applied codings in order, as `parse` returns them. Names that are not registered codings (``utf-8``,
            ``aws-chunked``) are ignored.
        status: the response's status, for errors.

    Raises:
        BadResponseError: the body has an unsupported coding or too many codings, or the data does not match its
            headers. This error is raised at once, or while the pieces are read.
        TruncatedError: the compressed data is incomplete. This error is raised while the pieces are read.
    """
    names = [name for name in names if name in _DECODERS or name in _UNSUPPORTED]
    if len(names) > _MAX_CODINGS:
        raise BadResponseError(f"the body is encoded {len(names)} times, more than {_MAX_CODINGS}", http_status=status)
    found = iter(pieces)
    for name in reversed(names):
        found = _decode_one(name, found, status)
    return found


def _decode_one(name: str, pieces: Iterator[bytes], status: int) -> Iterator[bytes]:
    """Decode one coding; if the first bytes are those of an image, return the pieces unchanged."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= SIGNATURE_BYTES:
            break
    if not head or begins_as_image(head):
        yield head
        yield from pieces
        return
    if name in _UNSUPPORTED:
        raise BadResponseError(f"the body is encoded as {name}, which imagefleet can't decode", http_status=status)
    try:
        yield from _DECODERS[name](chain((head,), pieces))
    except _IncompleteError:
        raise TruncatedError("the compressed body is incomplete", http_status=status) from None
    except (zlib.error, brotli.error, zstd.ZstdError) as error:
        raise BadResponseError(f"the body is not {name} as its header says: {error}", http_status=status) from error


def _gzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all gzip members. Bytes after a gzip member are dropped unless they begin another member."""
    inflater, rest = zlib.decompressobj(16 + zlib.MAX_WBITS), b""
    for piece in pieces:
        rest += piece
        while rest:
            if inflater.eof:
                if len(rest) < len(_GZIP_MEMBER):
                    break
                if not rest.startswith(_GZIP_MEMBER):
                    _discard(pieces)
                    return
                inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
            yield inflater.decompress(rest, _PIECE_BYTES)
            rest = inflater.unconsumed_tail or inflater.unused_data
    yield from _flush(inflater)


def _deflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress the zlib format, or raw deflate, because many servers send raw deflate as ``deflate``."""
    inflater, rest = zlib.decompressobj(), next(pieces)
    try:
        found = inflater.decompress(rest, _PIECE_BYTES)
    except zlib.error:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        found = inflater.decompress(rest, _PIECE_BYTES)
    yield found
    for rest in chain((inflater.unconsumed_tail,), pieces):
        while rest and not inflater.eof:
            yield inflater.decompress(rest, _PIECE_BYTES)
            rest = inflater.unconsumed_tail  # noqa: PLW2901  # the piece shrinks
    yield from _flush(inflater)


def _flush(inflater: zlib._Decompress) -> Iterator[bytes]:
    """Return a decoder's remaining output after the end of its input.

    Raises:
        _IncompleteError: the input ends before the compressed data is complete.
    """
    while not inflater.eof:
        found = inflater.decompress(b"", _PIECE_BYTES)
        if not found and not inflater.eof:
            raise _IncompleteError
        yield found


def _brotli(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = brotli.Decompressor()
    for piece in pieces:
        if inflater.is_finished():
            _discard(pieces)
            return
        yield inflater.process(piece, output_buffer_limit=_PIECE_BYTES)
        # The decoder may still have output, even when it already accepts more input.
        while (found := inflater.process(b"", output_buffer_limit=_PIECE_BYTES)) or not inflater.can_accept_more_data():
            yield found
    if not inflater.is_finished():
        raise _IncompleteError


def _zstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress all zstd frames. Bytes after a zstd frame are dropped unless they begin another frame."""
    inflater, rest = zstd.ZstdDecompressor(), b""
    for piece in pieces:
        rest += piece
        while rest:
            if inflater.eof:
                if len(rest) < len(_ZSTD_FRAMES[0]):
                    break
                if not rest.startswith(_ZSTD_FRAMES):
                    _discard(pieces)
                    return
                inflater = zstd.ZstdDecompressor()
            yield inflater.decompress(rest, max_length=_PIECE_BYTES)
            while not (inflater.needs_input or inflater.eof):
                yield inflater.decompress(b"", max_length=_PIECE_BYTES)
            rest = inflater.unused_data
    if not inflater.eof:
        raise _IncompleteError


def _discard(pieces: Iterator[bytes]) -> None:
    """Read the rest of a body, so that its connection can be reused."""
    for _ in pieces:
        pass


_DECODERS: dict[str, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
#: The registered codings without a decoder here (https://www.iana.org/assignments/http-parameters).
_UNSUPPORTED = frozenset({"aes128gcm", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress"})
