"""A shard's tar has the members that img2dataset writes. Every tar program can read the tar."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from tasks.outputs import webdataset
from tasks.outputs.samples import SampleImage
from tests.conftest import required
from tests.unit.conftest import image

_ROWS = pa.table(
    {
        "url": ["http://a.example/0", "http://a.example/1"],
        "caption": ['a cat 🐈, "quoted"\nin two lines', None],
        "nested": [{"a": [1, None]}, None],
        "other": pa.array([Decimal("1.50"), None]),
        "day": [date(2026, 1, 2), None],
        "raw": [b"\xff\0", None],
        "nan": [float("nan"), 0.5],
        "key": ["000000000", "000000001"],
    }
)
_IMAGES = [SampleImage("000000000", "jpg", image("JPEG")), SampleImage("000000001", "png", image())]


def test_members() -> None:
    """Each sample has its image, its row as JSON and its caption, in this order."""
    body = b"".join(webdataset.encode(_ROWS, iter(_IMAGES)))
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        members = {member.name: (member, tar.extractfile(member)) for member in tar}
    assert list(members) == [f"00000000{row}" for row in ("0.jpg", "0.json", "0.txt", "1.png", "1.json", "1.txt")]
    read = {name: file.read() for name, (_, file) in members.items() if file is not None}
    assert (read["000000000.jpg"], read["000000001.png"]) == (_IMAGES[0].body, _IMAGES[1].body)
    assert (read["000000000.txt"].decode(), read["000000001.txt"]) == ('a cat 🐈, "quoted"\nin two lines', b"")
    assert json.loads(read["000000000.json"]) == {
        "url": "http://a.example/0",
        "caption": 'a cat 🐈, "quoted"\nin two lines',
        "nested": {"a": [1, None]},
        "other": "1.50",
        "day": "2026-01-02",
        "raw": "/wA=",
        "nan": None,
        "key": "000000000",
    }
    facts = {(member.mode, member.mtime, member.uid, member.gid, member.uname) for member, _ in members.values()}
    assert facts == {(0o644, 0, 0, 0, "")}


def test_list_without_captions() -> None:
    """Without a caption column, there are no caption members."""
    body = b"".join(webdataset.encode(_ROWS.drop_columns(["caption"]), iter(_IMAGES)))
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert not [name for name in tar.getnames() if name.endswith("txt")]


def test_other_programs_read_it() -> None:
    """GNU tar lists the members without a warning."""
    body = b"".join(webdataset.encode(_ROWS, iter(_IMAGES)))
    ended = subprocess.run([required("tar"), "-tf", "-"], input=body, capture_output=True, check=True)
    assert (len(ended.stdout.splitlines()), ended.stderr) == (6, b"")


def test_images_are_read_one_at_a_time() -> None:
    """The tar is encoded sample by sample, so memory holds one image at a time."""
    taken: list[str] = []

    def lazily() -> object:
        for sample in _IMAGES:
            taken.append(sample.key)
            yield sample

    chunks = webdataset.encode(_ROWS, lazily())  # type: ignore[arg-type]
    next(chunks)
    assert taken == ["000000000"]


@pytest.mark.parametrize("kept", [0, 100, 512, 1024, -1, -512])
def test_truncated_tar_is_refused(kept: int) -> None:
    """A tar without its end is not read, because images may be missing."""
    body = b"".join(webdataset.encode(_ROWS, iter(_IMAGES)))
    with pytest.raises(ValueError, match=r"it is not a tar|its end is missing"):
        webdataset.sizes(io.BytesIO(body[:kept]))


def test_sizes_and_images() -> None:
    """The images of a tar are read again, with their keys, extensions and sizes."""
    file = io.BytesIO(b"".join(webdataset.encode(_ROWS, iter(_IMAGES))))
    assert list(webdataset.images(file)) == _IMAGES
    assert webdataset.sizes(file) == {sample.key: len(sample.body) for sample in _IMAGES}
