"""A decoder's memory is estimated and limited before decoding starts, also for malicious images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from tasks import runtime_tuning
from tasks.deadline import Deadline
from tasks.errors import FetchError, TooManyPixelsError, UndecodableError
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.images import decode, identify, memory_estimate, resize
from tasks.images.identify import ImageInfo
from tests import bombs
from tests.encoding import encoded

_LIMIT = 1_000_000
_TEAL = Image.new("RGB", (640, 480), "teal")
_COMMENT = b"\xff\xfe\x00\x06" + b"\xff\xda\xff\xda"


def estimated_pixels(body: bytes, limit: int = _LIMIT, draft: int | None = None) -> int:
    """Return the number of pixels that decoding an image holds in memory. If a draft is given, it is applied first."""
    with identify.open_image(body, limit) as image:
        if draft:
            image.draft(None, (draft, draft))
        return memory_estimate.estimate_pixels(image, body, limit)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_ordinary_image_counts_its_pixels(kind: str) -> None:
    """For an ordinary image, the estimate is its own number of pixels."""
    assert estimated_pixels(encoded(_TEAL, kind)) == 640 * 480


def test_draft_reduces_the_estimate() -> None:
    """A JPEG counts with the reduced size if it is decoded at an eighth of its sides."""
    assert estimated_pixels(encoded(_TEAL, "JPEG"), draft=1) == 80 * 60


@pytest.mark.parametrize("body", [encoded(_TEAL, "JPEG", progressive=True), bombs.jpeg((640, 480), 3, data=False)])
def test_several_scans_count_in_full(body: bytes) -> None:
    """A JPEG with several scans counts in full, whatever the draft."""
    assert estimated_pixels(body) == estimated_pixels(body, draft=1) == 640 * 480


def test_incomplete_scan_counts_in_full() -> None:
    """A JPEG counts in full too if its single scan has one component out of three."""
    assert estimated_pixels(bombs.jpeg((640, 480), 1, data=False), draft=1) == 640 * 480


def test_each_image_of_a_file_is_checked() -> None:
    """In an MPO, only the scans of the current image count."""
    body = encoded(Image.new("RGB", (64, 64)), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    second = body.rindex(b"\xff\xc0")
    for bytes_, expected in ((body, [False, False]), (body[:second] + b"\xff\xc2" + body[second + 2 :], [False, True])):
        with identify.open_image(bytes_, _LIMIT) as image:
            assert isinstance(image, JpegImageFile)
            found = []
            for number in (0, 1):
                image.seek(number)
                found.append(memory_estimate._keeps_all_coefficients(image, bytes_))
        assert found == expected


@pytest.mark.parametrize("scans", [200, 201])
def test_scans_are_limited(scans: int) -> None:
    """A JPEG with more than 200 scans is refused. A scan marker inside a comment does not count."""
    body = bombs.jpeg((64, 64), scans, before=_COMMENT * 50)
    if scans > 200:
        with pytest.raises(UndecodableError, match="more than 200 scans"):
            estimated_pixels(body)
    else:
        assert estimated_pixels(body) == 64 * 64


def test_end_marker_in_a_comment_hides_nothing() -> None:
    """If a comment contains an end marker, the scans after the comment are counted."""
    end = b"\xff\xfe\x00\x04\xff\xd9"
    body = bombs.jpeg((64, 64), 1)
    with pytest.raises(UndecodableError, match="scans"):
        estimated_pixels(body[:-2] + end + body[body.index(b"\xff\xda") : -2] * 201 + body[-2:])


def test_segments_are_limited() -> None:
    """A JPEG with too many segments is refused before all of them are read."""
    with pytest.raises(UndecodableError, match="segments"):
        estimated_pixels(bombs.jpeg((64, 64), 3, before=b"\xff\xfe\x00\x02" * 20_001))


def test_tiles_are_limited() -> None:
    """A TIFF's tile size counts too. The tile size has the same limit as the image's size."""
    assert estimated_pixels(bombs.tiled_tiff((512, 256))) == 512 * 256
    with pytest.raises(TooManyPixelsError, match="tiles of 32,768x32,768 pixels, more than 1,000,000"):
        estimated_pixels(bombs.tiled_tiff((32768, 32768)))
    with pytest.raises(UndecodableError, match="tiles are not integers"):
        estimated_pixels(bombs.tiled_tiff((32768, 32768), kind=11))


def test_first_tile_size_counts() -> None:
    """If a TIFF has two tile sizes, the first one counts, as in the decoder.

    `_BOMBS` has a TIFF with a large second tile size.
    """
    assert estimated_pixels(bombs.tiled_tiff((32, 32), (32768, 32768))) == 32 * 32
    with pytest.raises(TooManyPixelsError, match="tiles of"):
        estimated_pixels(bombs.tiled_tiff((32768, 32768), (32, 32)))


def test_avif_counts_as_the_largest_allowed() -> None:
    """The header of an AVIF does not bound the coded size. For an AVIF, the largest size that is decoded counts."""
    body = bombs.small_avif((640, 480))
    assert identify.inspect(body, _LIMIT).width == 16
    assert estimated_pixels(body) == 16384 * 16384


#: Seconds to decode an image on a busy machine. `print_costs` measures CPU time, which has a smaller limit.
_PATIENCE = 50.0


def _resized(body: bytes) -> ImageInfo:
    return resize.resize_image(
        body, ResizeOptions(ResizeMode.KEEP_RATIO, 16), _LIMIT, Deadline(_PATIENCE, _PATIENCE)
    ).info


def _decoded(body: bytes) -> ImageInfo:
    return decode.decode_all_frames(body, _LIMIT, Deadline(_PATIENCE, _PATIENCE))


#: Images whose decoding takes at least half a gigabyte of memory, or a minute of CPU time.
_BOMBS = {
    "tile": bombs.tiled_tiff((32768, 32768)),
    "second tile": bombs.tiled_tiff((32, 32), (32768, 32768)),
    "scans": bombs.jpeg((900, 900), 50_000, data=False),
    "first frame": bombs.gif((60_000, 60_000)),
    "second frame": bombs.gif((8, 8), (60_000, 60_000)),
    "second frame that restores the previous": bombs.gif((8, 8), (60_000, 60_000), disposal=3),
}


def print_costs() -> None:
    """Print each bomb's result, the longest CPU time for a bomb in seconds, and the growth of peak memory in MB."""
    import resource
    import time

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    metadata = bombs.metadata()
    before, longest = peak(), 0.0
    for name, body in (_BOMBS | metadata).items():
        for call in (_decoded,) if name in metadata else (_decoded, _resized):
            started = time.process_time()
            try:
                call(body)
                result = "fine"
            except FetchError as error:
                result = type(error).__name__
            longest = max(longest, time.process_time() - started)
            sys.stdout.write(f"{name}, {call.__name__[1:]}: {result}\n")
    sys.stdout.write(f"{longest}\n{peak() - before}\n")


def test_bombs_are_cheap() -> None:
    """Neither small bombs nor megabytes of metadata use memory or time beyond the limits."""
    argv = [sys.executable, "-c", "from tests.unit.images.test_memory_estimate import print_costs; print_costs()"]
    *results, longest, grown = subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=60
    ).stdout.splitlines()
    assert results == [
        "tile, decoded: TooManyPixelsError",
        "tile, resized: TooManyPixelsError",
        "second tile, decoded: UndecodableError",
        "second tile, resized: UndecodableError",
        "scans, decoded: UndecodableError",
        "scans, resized: UndecodableError",
        "first frame, decoded: TooManyPixelsError",
        "first frame, resized: TooManyPixelsError",
        "second frame, decoded: TooManyPixelsError",
        "second frame, resized: fine",
        "second frame that restores the previous, decoded: TooManyPixelsError",
        "second frame that restores the previous, resized: fine",
        *(
            f"{name}, decoded: {end}"
            for name, end in {
                **dict.fromkeys(("pieces of a JPEG", "pieces of a PNG", "pieces of a GIF"), "fine"),
                **dict.fromkeys(("places in a JPEG", "places in a PNG"), "UndecodableError"),
                "places in a GIF": "fine",
                "places in a WebP": "UndecodableError",
                **dict.fromkeys(("profiles before the pixels", "profiles behind the pixels"), "fine"),
            }.items()
        ),
    ]
    assert int(grown) < 64
    assert float(longest) < 5


@pytest.mark.parametrize(("call", "widths"), [(_decoded, [64, 16, 8, 8]), (_resized, [16] * 4)])
def test_bombs_are_images(call: Callable[[bytes], ImageInfo], widths: list[int]) -> None:
    """The same images are valid if their sizes are allowed.

    So the test above shows that only their size makes these images fail.
    """
    gifs = (bombs.gif((8, 8), (8, 8), disposal=disposal) for disposal in (2, 3))
    bodies = (bombs.jpeg((64, 64), 3), bombs.small_avif((64, 64)), *gifs)
    assert [call(body).width for body in bodies] == widths
