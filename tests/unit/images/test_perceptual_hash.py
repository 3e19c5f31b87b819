"""Copies of a picture have almost the same perceptual hash. Other pictures have clearly different hashes."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.Image import Transpose

from producer.demo import DemoServer, draw_image
from producer.output.run_file import RunConfig
from producer.runs import preflight
from tasks.deadline import Deadline
from tasks.download.downloader import Downloader
from tasks.errors import InternalError, UsageError
from tasks.fetch import FetchRequest, fetch
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images.perceptual_hash import perceptual_hash
from tasks.model import FetchOptions, RunOptions
from tasks.storage.local_store import LocalStore
from tests.conftest import required_module
from tests.encoding import encoded
from tests.unit.conftest import Judge
from tests.waiting import PATIENCE

required_module("imagehash")
import imagehash  # noqa: E402  # after the check


def hash_of(body: bytes) -> str:
    """Return an image's perceptual hash."""
    return perceptual_hash(body, 10_000_000, Deadline(PATIENCE, PATIENCE))


def bits(one: str, other: str) -> int:
    """Return the number of different bits of two hashes."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("index", [1, 2, 3])
def test_equals_the_librarys_hash(index: int) -> None:
    """For images of any size and format, the hash equals imagehash.phash, except for at most two rounded bits."""
    for size in ((60, 40), (800, 600)):
        for kind in ("png", "jpeg", "webp"):
            body = draw_image(index, *size, kind)
            found = hash_of(body)
            assert len(found) == 16
            assert bits(found, str(imagehash.phash(Image.open(io.BytesIO(body))))) <= 2


def test_copies_are_close() -> None:
    """Copies differ by a few bits if they are scaled, re-encoded, or turned with the right orientation.

    Other pictures differ by many bits.
    """
    body = draw_image(3, 400, 300, "png")
    drawn = Image.open(io.BytesIO(body)).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    copies = [
        encoded(drawn.resize((200, 150)), "JPEG", quality=60),
        encoded(drawn.transpose(Transpose.ROTATE_90), "JPEG", exif=exif, quality=90),
    ]
    assert all(bits(hash_of(body), hash_of(copy)) <= 4 for copy in copies)
    assert bits(hash_of(body), hash_of(draw_image(4, 400, 300, "png"))) > 12


@pytest.mark.parametrize("resize", [ResizeOptions(), ResizeOptions(ResizeMode.CENTER_CROP, 64)], ids=["no", "crop"])
def test_outcome_has_the_hash_of_the_saved_image(
    resize: ResizeOptions, demo: DemoServer, downloader: Downloader, store: LocalStore
) -> None:
    """The hash is computed from the saved file, even if an earlier delivery saved the file.

    Without --phash, the hash is null.
    """
    options: dict[str, Any] = {"deadline": 5.0, "retries": 0, "resize": resize}
    request = FetchRequest(f"{demo.url}/images/3.png?width=90&height=70", 0)
    run = RunOptions("/out", 10, FetchOptions(**options, phash=True))
    outcome = fetch(request, run, store, downloader)
    assert outcome.path is not None
    assert outcome.phash == hash_of(store.read(outcome.path))
    again = fetch(FetchRequest(request.url, 0, recover=True), run, store, downloader)
    assert again.phash == outcome.phash
    plain = fetch(FetchRequest(request.url, 1), RunOptions("/out", 10, FetchOptions(**options)), store, downloader)
    assert (plain.ok, plain.phash) == (True, None)


def test_missing_library(
    demo: DemoServer, downloader: Downloader, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the library is not installed, a worker lets another worker try.

    If the library is not installed, a command ends before it starts anything.
    """
    monkeypatch.setitem(sys.modules, "imagehash", None)
    judge = Judge()
    run = RunOptions("/out", 10, FetchOptions(deadline=5.0, retries=0, phash=True))
    outcome = fetch(FetchRequest(f"{demo.url}/images/3.png", 0), run, store, downloader, judge=judge)
    (error,) = judge.failures
    assert (outcome.ok, isinstance(error, InternalError), error.is_worker_fault) == (False, True, True)
    assert "imagefleet[phash]" in str(error)
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="--phash is not available"):
        preflight.check_local_options(RunConfig(run.fetch))
