"""If a list is missing, unreadable or damaged, an error names the place."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.errors import UsageError
from tasks.model import ImageRequest
from tests.zstandard import zstd

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": lambda body: bz2.compress(body, 1),
    "xz": lambda body: lzma.compress(body, preset=0),
    "Zstandard": zstd.compress,
}
_BODY = b"url,id\n" + b"".join(b"http://a.example/%d,%d\n" % (index, index * 7919 % 10007) for index in range(40_000))


@pytest.mark.parametrize("compress", _COMPRESSORS.values(), ids=_COMPRESSORS)
def test_truncated_data_names_the_place(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """The rows before the end of truncated data are read. After these rows, an error names the line."""
    path = tmp_path / "list.csv.gz"
    body = compress(_BODY)
    path.write_bytes(body[: len(body) * 3 // 4])
    requests: list[ImageRequest] = []
    with pytest.raises(UsageError, match=r"can't be read near line [\d,]+") as caught:
        requests.extend(url_list.read(str(path)))
    assert "truncated" in caught.value.why
    assert f"line {len(requests) + 2:,}" in caught.value.what


@pytest.mark.parametrize("compress", _COMPRESSORS.values(), ids=_COMPRESSORS)
def test_damaged_data_is_an_error(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """Compressed data that is damaged is an error too, wherever the damage is."""
    path = tmp_path / "list.csv"
    body = bytearray(compress(_BODY))
    middle = len(body) // 2
    body[middle : middle + 64] = bytes(64)
    path.write_bytes(body)
    with pytest.raises(UsageError, match="can't be read"):
        list(url_list.read(str(path)))
    path.write_bytes(body[:12])
    with pytest.raises(UsageError, match="can't be read at its start"):
        list(url_list.read(str(path)))


def test_missing_list_is_an_error(tmp_path: Path) -> None:
    """A missing file is reported as an error of the command line."""
    with pytest.raises(UsageError, match="can't be read") as caught:
        list(url_list.read(str(tmp_path / "missing.csv"), SourceOptions()))
    assert caught.value.exit_code == 2
