"""Content codings are decoded piece by piece, wherever the pieces begin and end."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.download.content_codings import decode, parse
from tasks.errors import BadResponseError, TruncatedError
from tests.unit.conftest import image
from tests.zstandard import zstd

_BODIES = st.binary(max_size=50) | st.integers(0, 300_000).map(bytes) | st.just(image("JPEG"))


def _raw_deflate(body: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(body) + made.flush()


_ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:]) + b"\r\n",
    "deflate": zlib.compress,
    "br": lambda body: brotli.compress(body, quality=1),
    "zstd": lambda body: zstd.compress(body[:100]) + zstd.compress(body[100:]) + b"\0",
}


def split(body: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Split a body into pieces of these sizes and one piece for the remainder."""
    for size in sizes:
        yield body[:size]
        body = body[size:]
    yield body


@given(body=_BODIES, name=st.sampled_from(list(_ENCODERS)), sizes=st.lists(st.integers(0, 40), max_size=20))
@settings(max_examples=100)
def test_pieces_make_no_difference(body: bytes, name: str, sizes: list[int]) -> None:
    """A body decodes to the same bytes, whether it arrives in one piece or in many pieces."""
    coded = _ENCODERS[name](body)
    assert b"".join(decode(split(coded, sizes), [name], 200)) == body


@pytest.mark.parametrize("size", [64 * 1024 * times + more for times in (1, 2) for more in (-1, 0, 1)])
@pytest.mark.parametrize("name", _ENCODERS)
def test_bodies_as_large_as_a_decoders_buffer(name: str, size: int) -> None:
    """When a decoder's input ends, the output in its buffer still belongs to the body."""
    pieces = list(decode([_ENCODERS[name](bytes(size))], [name], 200))
    assert b"".join(pieces) == bytes(size)


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
def test_decoder_returns_small_pieces(name: str) -> None:
    """A decompression bomb is decoded in pieces, so the caller can count the bytes before they fill memory."""
    first = next(filter(None, decode([_ENCODERS[name](bytes(16 << 20))], [name], 200)))
    assert len(first) < 3 << 20


@given(
    body=st.binary(min_size=1, max_size=200), name=st.sampled_from(["gzip", "deflate", "br", "zstd"]), data=st.data()
)
def test_incomplete_body_is_truncated(body: bytes, name: str, data: st.DataObject) -> None:
    """A compressed body is reported as truncated, wherever it is cut."""
    coded = zstd.compress(body) if name == "zstd" else _ENCODERS[name](body)
    kept = data.draw(st.integers(18, max(18, len(coded) - 1)))
    if kept < len(coded):
        with pytest.raises(TruncatedError):
            list(decode([coded[:kept]], [name], 200))


@given(body=st.binary(max_size=300), names=st.lists(st.sampled_from([*_ENCODERS, "exi", "utf-8"]), max_size=6))
@settings(max_examples=100)
def test_any_body_is_decoded_or_refused(body: bytes, names: list[str]) -> None:
    """Arbitrary bytes are decoded, or end in an error with a reason. No other exception is raised."""
    with suppress(BadResponseError, TruncatedError):
        assert isinstance(b"".join(decode([body], names, 200)), bytes)


def test_raw_deflate_is_decoded() -> None:
    """The coding "deflate" means the zlib format, but many servers send raw deflate."""
    assert b"".join(decode(split(_raw_deflate(b"body" * 1000), [20, 1]), ["deflate"], 200)) == b"body" * 1000


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", []),
        ("identity", []),
        ("GZip", ["gzip"]),
        ("br, ,gzip;q=1.0 ,", ["br", "gzip"]),
        ("aws-chunked,gzip", ["aws-chunked", "gzip"]),
    ],
)
def test_parses_the_content_encoding_header(value: str, names: list[str]) -> None:
    """In a Content-Encoding, letter case, parameters, empty members and "identity" make no difference."""
    assert parse(value) == names
