"""Any EXIF data becomes short, valid JSON. The tags have img2dataset's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.fetch import FetchRequest, fetch
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images.exif_tags import exif_json, read_exif_tags
from tasks.model import FetchOptions, RunOptions
from tasks.storage.local_store import LocalStore
from tests.encoding import encoded
from tests.unit.conftest import Canned, always, response

_LIMIT = 10_000_000


def photo(kind: str = "JPEG", **texts: str) -> bytes:
    """Return an image with the EXIF data of a camera."""
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif[Base.Make] = "Camera Works\0"
    for name, text in texts.items():
        exif[getattr(Base, name)] = text
    exif[IFD.Exif] = {
        Base.DateTimeOriginal: "2024:05:06 07:08:09",
        Base.ExposureTime: IFDRational(10, 600),
        Base.FNumber: IFDRational(28, 10),
        Base.ISOSpeedRatings: 200,
    }
    exif[IFD.GPSInfo] = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (40.0, 26.0, 46.5)}
    return encoded(Image.new("RGB", (40, 30)), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_tags_have_the_names_and_texts_of_exifread(kind: str) -> None:
    """The names and texts are those that img2dataset writes, except for the orientation, which is a number."""
    tags = read_exif_tags(photo(kind), _LIMIT)
    assert tags == {
        "Image Orientation": "6" if kind != "AVIF" else tags["Image Orientation"],
        "EXIF DateTimeOriginal": "2024:05:06 07:08:09",
        "Image Make": "Camera Works",
        "GPS GPSLatitudeRef": "N",
        "GPS GPSLatitude": "[40, 26, 93/2]",
        "EXIF ExposureTime": "1/60",
        "EXIF FNumber": "14/5",
        "EXIF ISOSpeedRatings": "200",
    }
    assert json.loads(exif_json(tags, 480) or "") == tags


def test_long_and_unprintable_values_are_left_out() -> None:
    """A value is left out if it is longer than 60 bytes or has control characters."""
    tags = read_exif_tags(photo(Artist="x" * 59, Copyright="a\x07b", Software="fine"), _LIMIT)
    assert "Image Artist" not in tags
    assert "Image Copyright" not in tags
    assert tags["Image Software"] == "fine"


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=60), max_size=20), st.integers(0, 500))
def test_json_fits(tags: dict[str, str], limit: int) -> None:
    """With any tags and any limit, the JSON is valid and has only whole tags.

    The JSON is within the limit even as a string inside of other JSON.
    """
    text = exif_json(tags, limit)
    if text is not None:
        assert json.loads(text).items() <= tags.items()
        assert len(json.dumps(text)) <= limit


@settings(max_examples=100)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(data=st.data())
def test_any_exif_is_read_or_ignored(data: st.DataObject) -> None:
    """Whatever bytes of the EXIF data change, the result is a mapping of short texts."""
    body = bytearray(photo())
    end = body.index(b"\xff\xdb")
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(20, end))] = data.draw(st.integers(0, 255))
    assert all(text.isprintable() and len(text) <= 60 for text in read_exif_tags(bytes(body), _LIMIT).values())


@pytest.mark.parametrize("body", [b"", b"<html>", encoded(Image.new("L", (4, 4))), b"\xff\xd8\xff"])
def test_without_exif(body: bytes) -> None:
    """A body without EXIF data has no tags."""
    assert read_exif_tags(body, _LIMIT) == {}
    assert exif_json({}, 480) is None


@pytest.mark.parametrize("resize", [ResizeOptions(), ResizeOptions(ResizeMode.BORDER, 32)], ids=["no", "border"])
@pytest.mark.parametrize("extract", [False, True])
def test_outcome_has_the_tags_and_stays_small(
    resize: ResizeOptions, extract: bool, store: LocalStore, sessions_to: Callable[..., Sessions]
) -> None:
    """With --extract-exif, the Outcome has as many tags of the downloaded image as fit under 1 KB."""
    many: dict[str, Any] = dict.fromkeys(("Artist", "Copyright", "Model", "Software", "ImageDescription"), '"x"' * 8)
    long = "x" * 5000
    for headers, least in (((), 9), ((f"ETag: {long}", f"Last-Modified: {long}"), 1)):
        sent = response(photo(**many), "200 OK", *headers)
        options = FetchOptions(deadline=5.0, retries=0, resize=resize, extract_exif=extract)
        with Canned(always(sent)) as server:
            request = FetchRequest(f"{server.url}/{'y' * 300 if headers else ''}", len(headers))
            outcome = fetch(request, RunOptions("/out", 10, options), store, Downloader(sessions_to(server.address)))
        assert outcome.ok
        assert len(json.dumps(outcome.to_json())) < 1024
        assert (outcome.exif is not None) == extract
        if outcome.exif is not None:
            tags = json.loads(outcome.exif)
            assert len(tags) >= least
            assert tags["Image Orientation"] == "6"
