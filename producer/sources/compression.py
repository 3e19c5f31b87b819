"""Decompress a URL list. The list's first bytes show the compression, whatever the file's name says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from io import BufferedReader
from typing import Any

from producer.sources.location import HEAD_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_SIGNATURES: tuple[tuple[re.Pattern[bytes], Callable[[BufferedReader], Any]], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), lambda stream: gzip.GzipFile(fileobj=stream)),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.BZ2File),
    (re.compile(rb"\xfd7zXZ\0"), lzma.LZMAFile),
    (re.compile(rb"\x28\xb5\x2f\xfd"), zstd.ZstdFile),
)
#: The endings of the names of compressed files.
EXTENSIONS = frozenset({".gz", ".bz2", ".xz", ".zst"})
#: The errors of damaged compressed data. An `EOFError` means that the data is truncated.
ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError, gzip.BadGzipFile)


def decompress(stream: BufferedReader) -> BufferedReader:
    """Return a stream of the decompressed bytes, or the given stream if it is not compressed."""
    head = stream.peek(HEAD_BYTES)
    for signature, open_stream in _SIGNATURES:
        if signature.match(head):
            return BufferedReader(open_stream(stream), HEAD_BYTES)
    return stream
