"""Filters exclude images by the size in their header."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFile

from producer.demo import DemoServer
from tasks.download.downloader import Downloader
from tasks.errors import FilteredError
from tasks.fetch import FetchRequest, fetch
from tasks.image_options import EncodeFormat, FilterOptions, ResizeMode, ResizeOptions
from tasks.images.filters import check_filters
from tasks.model import FetchOptions, Reason, RunOptions, Status
from tasks.storage.local_store import LocalStore
from tests.encoding import encoded


@pytest.mark.parametrize(
    ("filters", "passes", "fails", "message"),
    [
        (FilterOptions(min_size=50), (50, 80), (200, 49), r"smaller side has 49 pixels, fewer than 50 \(--min-size\)"),
        (FilterOptions(max_area=600), (20, 30), (20, 31), r"20x31 = 620 pixels, more than 600 \(--max-area\)"),
        (FilterOptions(max_aspect_ratio=2.5), (50, 20), (51, 20), r"2\.55 \(51x20\), more than 2\.5 \(--max-aspect"),
    ],
)
def test_each_filter(filters: FilterOptions, passes: tuple[int, int], fails: tuple[int, int], message: str) -> None:
    """A size equal to a limit passes, as in img2dataset.

    In any orientation, the message names the filter and the values.
    """
    check_filters(*passes, filters)
    check_filters(*passes[::-1], filters)
    with pytest.raises(FilteredError, match=message):
        check_filters(*fails, filters)
    with pytest.raises(FilteredError):
        check_filters(*fails[::-1], filters)


@pytest.mark.parametrize("mode", [ResizeMode.NO, ResizeMode.BORDER])
def test_filtered_image_is_not_decoded_or_saved(
    mode: ResizeMode, demo: DemoServer, downloader: Downloader, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without resizing, the Outcome of an excluded image has its size and says why. No file is saved."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    options = FetchOptions(deadline=5.0, retries=0, resize=ResizeOptions(mode), filters=FilterOptions(min_size=31))
    request = FetchRequest(f"{demo.url}/images/3.png?width=40&height=30", 0)
    outcome = fetch(request, RunOptions("/out", 10, options), store, downloader)
    assert (outcome.status, outcome.reason) == (Status.FAILED_TO_RESIZE, Reason.FILTERED)
    assert outcome.error_message == "the smaller side has 30 pixels, fewer than 31 (--min-size)"
    assert (outcome.original_width, outcome.original_height, outcome.width, outcome.height) == (40, 30, None, None)
    assert not list(Path(store.location).rglob("*.*"))


@pytest.mark.parametrize("encode_format", EncodeFormat)
def test_saved_image_is_not_filtered(
    encode_format: EncodeFormat, demo: DemoServer, downloader: Downloader, store: LocalStore
) -> None:
    """A late duplicate keeps the first delivery's resized file, even if the file is smaller than the filter's limit."""
    resize = ResizeOptions(ResizeMode.CENTER_CROP, 32, encode_format=encode_format)
    options = FetchOptions(deadline=5.0, retries=0, resize=resize, filters=FilterOptions(min_size=64))
    run = RunOptions("/out", 10, options)
    url = f"{demo.url}/images/3.png?width=90&height=70"
    first = fetch(FetchRequest(url, 0), run, store, downloader)
    assert (first.ok, first.format, first.width, first.original_width) == (
        True,
        "jpeg" if encode_format is EncodeFormat.JPG else encode_format.value,
        32,
        90,
    )
    # The saved file of another download of the same URL.
    other = encoded(Image.new("RGB", (32, 32)), first.format or "")
    assert first.path is not None
    store.replace(first.path, other)
    second = fetch(FetchRequest(url, 0, recover=True), run, store, downloader)
    assert (second.ok, second.path, second.recovered, second.original_width) == (True, first.path, True, None)
    assert store.read(first.path) == other
