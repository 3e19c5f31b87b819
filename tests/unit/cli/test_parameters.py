"""Values of options are converted, and invalid ones are refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
import pytest

from config import limits
from producer.cli.parameter_types import Duration, Size
from producer.cli.parameters import DownloadParameters, download_options
from producer.output.run_file import RunConfig
from tasks.image_options import DEFAULT_FORMATS, EncodeFormat, FilterOptions, Interpolation, ResizeMode, ResizeOptions
from tasks.model import HeaderOptions, Verify
from tasks.throttle_options import RobotsPolicy


@click.command()
@download_options
def _convert(download: DownloadParameters) -> RunConfig:
    return download.run_config()


def parse(*arguments: str) -> RunConfig:
    """Return the options of a run from a command line."""
    config = _convert.main(list(arguments), standalone_mode=False)
    assert isinstance(config, RunConfig)
    return config


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("500", 500), ("1kB", 1000), ("500KiB", 512_000), ("64MiB", 64 << 20), ("1.5 MiB", 1_572_864)],
)
def test_sizes(text: str, count: int) -> None:
    """A size is a number of bytes, or a number with a unit."""
    assert Size().convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "0", "-5", "big", "5 potatoes", "nan", "inf"])
def test_invalid_sizes_are_refused(text: str) -> None:
    """Text that is not a size, and sizes below one byte, are refused."""
    with pytest.raises(click.BadParameter, match="size"):
        Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("0.5", 0.5), ("300ms", 0.3), ("1ms", 0.001), ("5s", 5.0), ("2m", 120.0), (" 2 M ", 120.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number of seconds, or a number with a unit."""
    assert Duration().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "0", "-1", "nan", "inf", "1e400", "1h", "soon"])
def test_invalid_durations_are_refused(text: str) -> None:
    """Text that is not a duration, and durations that are zero, negative or infinite, are refused."""
    with pytest.raises(click.BadParameter, match=r"not a duration|at least"):
        Duration().convert(text, None, None)


def test_options_reach_the_run() -> None:
    """The command line's values become the run's options.

    The longest deadline is a quarter of the visibility timeout.
    """
    numbers = "--timeout 1.5 --deadline 150 --max-bytes 7 --retries 0 --max-retry-after 5 --max-redirects 2"
    flags = "--allow-downgrade --ignore-opt-out --robots obey --insecure"
    images = "--verify decode --resize keep_ratio --image-size 99"
    headers = ("--user-agent", " Somebody/1.0 ", "--header", "X-A: b", "--header", "Authorization:Basic c:d")
    config = parse(*f"{numbers} {flags} {images}".split(), *headers, "--shard-size", "10", "--window", "2")
    assert (config.shard_size, config.window) == (10, 2)
    fetch = config.fetch
    assert (fetch.timeout, fetch.deadline, fetch.max_bytes, fetch.retries) == (1.5, limits.MAX_DEADLINE, 7, 0)
    assert (fetch.max_retry_after, fetch.max_redirects) == (5.0, 2)
    assert (fetch.allow_downgrade, fetch.ignore_opt_out, fetch.insecure) == (True, True, True)
    assert fetch.resize == ResizeOptions(ResizeMode.KEEP_RATIO, 99)
    assert fetch.throttle.robots is RobotsPolicy.OBEY
    assert fetch.verify is Verify.DECODE
    assert fetch.headers == HeaderOptions("Somebody/1.0", None, (("X-A", "b"), ("Authorization", "Basic c:d")))
    assert limits.MAX_DEADLINE == limits.VISIBILITY_TIMEOUT / 4


def test_defaults_are_those_of_the_run() -> None:
    """A command without options uses the library's defaults, as the demo does."""
    assert parse() == RunConfig()


def test_image_size_defaults_to_256() -> None:
    """Without --image-size, a resized image's smaller side has 256 pixels, as in img2dataset.

    Without --resize, images stay as they are.
    """
    assert parse().fetch.resize == ResizeOptions(ResizeMode.NO)
    for mode in ResizeMode:
        assert parse("--resize", mode.value).fetch.resize == ResizeOptions(mode, 256)


@pytest.mark.parametrize(
    ("names", "formats"),
    [
        ("jpeg", ("jpeg",)),
        ("PNG, jpeg", ("jpeg", "png")),
        ("default", DEFAULT_FORMATS),
        ("heic,default", (*DEFAULT_FORMATS, "heic")),
    ],
)
def test_formats(names: str, formats: tuple[str, ...]) -> None:
    """The formats are a list of names in any order. The name ``default`` stands for the usual formats."""
    assert parse("--formats", names).fetch.formats == formats
    for wrong in ("", "jpeg,tga", "jpeg,,png"):
        with pytest.raises(click.BadParameter, match=r"is not one of|empty"):
            parse("--formats", wrong)


def test_image_options_reach_the_run() -> None:
    """The options for images become the run's options."""
    arguments = (
        "--resize border --image-size 99 --only-if-bigger --encode-format webp --quality 80 --skip-reencode --upscale "
        "cubic --downscale nearest --background #20a0ff --min-size 50 --max-area 600 --max-aspect-ratio 2.5"
    )
    fetch = parse(*arguments.split()).fetch
    assert fetch.resize == ResizeOptions(
        ResizeMode.BORDER,
        99,
        80,
        only_if_bigger=True,
        encode_format=EncodeFormat.WEBP,
        skip_reencode=True,
        upscale=Interpolation.CUBIC,
        downscale=Interpolation.NEAREST,
        background=(0x20, 0xA0, 0xFF),
    )
    assert fetch.filters == FilterOptions(50, 2.5, 600)
    assert fetch == type(fetch).from_json(json.loads(json.dumps(asdict(fetch))))
    assert parse("--encode-format", "png").fetch.resize.format_quality == 6


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--image-size 99", "images are not resized"),
        ("--encode-format png --only-if-bigger", "images are not resized"),
        ("--upscale area", "images are not resized"),
        ("--downscale area", "images are not resized"),
        ("--quality 90", "saved as downloaded"),
        ("--skip-reencode", "saved as downloaded"),
        ("--background red", "only JPEGs and borders"),
        ("--resize keep_ratio --encode-format png --background red", "only JPEGs and borders"),
        ("--resize border --background #ff000080", "not an opaque colour"),
        ("--resize border --background nothing", "not an opaque colour"),
        ("--encode-format png --quality 10", "from 0 to 9"),
        ("--resize border --quality 0", "from 1 to 100"),
    ],
)
def test_image_options_without_effect_are_refused(arguments: str, why: str) -> None:
    """The command ends if an option would change nothing, or if a value is outside of its range."""
    with pytest.raises(click.BadParameter, match=why):
        parse(*arguments.split())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--header", "X-A"], "no colon"),
        (["--header", "X-A:"], "printable"),
        (["--header", "X-A: b", "--header", "X A: b"], "not a header name"),
        (["--header", ": b"], "not a header name"),
        (["--header", "X-A: b\r\nX-Evil: c"], "on one line"),
        (["--header", "X-A: \u00e4"], "printable ASCII"),
        (["--header", "hOST: a.example"], "can't be set"),
        (["--header", "Content-Length: 7"], "can't be set"),
        (["--header", "If-None-Match: x"], "can't be set"),
        (["--header", "Transfer-Encoding: chunked"], "can't be set"),
        (["--user-agent", "a\nb"], "on one line"),
        (["--referer", ""], "printable"),
    ],
)
def test_invalid_headers_are_refused(arguments: list[str], why: str) -> None:
    """The command refuses a header that would not stay on one line, and a header that imagefleet sets itself."""
    with pytest.raises(click.BadParameter, match=why):
        parse(*arguments)
