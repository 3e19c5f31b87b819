"""The commands that compare three ways to download, and the command that runs the demo server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from config import limits
from producer.cli.comparison_run import ComparisonParameters, run_comparison, show_comparison
from producer.cli.console import print_note
from producer.cli.examples import epilog
from producer.cli.fleets import FleetRequest
from producer.cli.parameter_types import Duration, Folder, UrlList
from producer.cli.parameters import (
    DURATION_HELP,
    SIZE_HELP,
    ConsoleParameters,
    DownloadParameters,
    FleetParameters,
    console_options,
    download_options,
    fleet_options,
    grouped,
    worker_options,
)
from producer.cli.source_parameters import COLUMN_HELP, SourceParameters, source_options
from producer.formatting import pluralized
from tasks.errors import UsageError

if TYPE_CHECKING:
    from producer.output.run_file import RunConfig
    from tasks.model import ImageRequest


_comparison_options = (
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        default=32,
        show_default=True,
        help="Maximum number of threads in the threaded download.",
    ),
    click.option(
        "--sweep",
        is_flag=True,
        help="Also measure 1, 2, 4, … threads and workers, and the first 10, 30, 100, … images. This takes two to "
        "three times as long.",
    ),
)


@cloup.command(
    short_help="Compare three ways to download your own list.",
    epilog=epilog(
        {"Compare three ways on the first hundred URLs": "producer compare urls.txt --out comparison --limit 100"},
        f"{COLUMN_HELP} {DURATION_HELP} {SIZE_HELP}",
    ),
)
@click.argument("source", type=UrlList())
@grouped(
    "measured",
    ComparisonParameters,
    cloup.option_group(
        "Comparison",
        click.option(
            "--out",
            required=True,
            type=Folder(),
            help="Folder for the chart and the images. Each way to download gets a subfolder.",
        ),
        *_comparison_options,
    ),
)
@source_options
@download_options
@worker_options
@console_options
def compare(
    source: str,
    out: Path,
    measured: ComparisonParameters,
    reading: SourceParameters,
    download: DownloadParameters,
    fleet: FleetParameters,
    broker: str | None,
    console: ConsoleParameters,
) -> None:
    """Compare three ways to download the images in SOURCE: one by one, with threads, and with a fleet."""
    from config.settings import settings
    from producer.output.folder import remove_created_on_failure
    from producer.sources import url_list

    config = replace(download.run_config(), source=reading.options())
    if config.source.path_col is not None:
        raise click.UsageError("--path-col can't be used here: a comparison saves images under the default names")
    requests = _without_duplicates(url_list.require_urls(url_list.read(source, config.source), source), config)
    request = FleetRequest(fleet, broker, quiet=console.hides_progress, allow_networks=settings().allow_networks)
    with remove_created_on_failure(out):
        comparison = run_comparison(requests, source, out, config, measured, request)
    show_comparison(comparison, out)


def _without_duplicates(requests: Iterable[ImageRequest], config: RunConfig) -> list[ImageRequest]:
    """Return all requests. If the options ask for it, duplicates are refused."""
    from producer.planning.run_requests import prepare_requests
    from tasks.storage.local_store import LocalStore

    with tempfile.TemporaryDirectory(prefix="imagefleet-") as folder:
        return list(prepare_requests(requests, config, LocalStore(Path(folder))))


@cloup.command(
    short_help="Compare three ways to download, without a network.",
    epilog=epilog(
        {
            "Compare three ways on ten images": "producer demo",
            "Compare them on more images, and with more threads": "producer demo --images 1000 --threads 64",
            "Measure from which list length on a fleet is faster": "producer demo --images 300 --workers 4 --sweep",
        },
        DURATION_HELP,
    ),
)
@grouped(
    "measured",
    ComparisonParameters,
    cloup.option_group(
        "Demo",
        click.option(
            "--images",
            type=click.IntRange(1, 100_000),
            default=10,
            show_default=True,
            help="Number of images to download.",
        ),
        click.option(
            "--latency",
            type=Duration(0.0),
            default="300ms",
            show_default=True,
            help="Delay of the demo server before each response.",
        ),
        click.option(
            "--out",
            type=Folder(),
            help="Folder for the images and the chart.  [default: a new imagefleet-demo folder here]",
        ),
        *_comparison_options,
    ),
)
@fleet_options
@console_options
def demo(
    images: int,
    latency: float,
    out: Path | None,
    measured: ComparisonParameters,
    fleet: FleetParameters,
    console: ConsoleParameters,
) -> None:
    """Serve demo images on this machine and download them in three ways. Needs no network, Redis or Docker.

    If a broker is configured, its workers form the fleet. The images then come from the demo server at
    IMAGEFLEET_DEMO_URL.
    """
    from producer.output.folder import remove_created_on_failure
    from producer.output.run_file import RunConfig
    from tasks.model import FetchOptions, ImageRequest
    from tasks.throttle_options import HostLimit, ThrottleOptions

    place = out or _new_folder("imagefleet-demo")
    with _demo_server(latency, images) as url, remove_created_on_failure(place):
        print_note(
            f"Downloading {pluralized(images, 'image')} from {url}, which delays each image by {latency * 1000:.0f} ms",
            console.hides_progress,
        )
        kinds = ("jpg", "png", "webp", "gif")
        requests = [
            ImageRequest(index, f"{url}/images/{index}.{kinds[index % len(kinds)]}?latency={latency}")
            for index in range(images)
        ]
        address = url.removeprefix("http://")
        # Don't use a proxy, because a proxy may be unable to reach the demo server. The demo server runs on this
        # machine or near the workers.
        request = FleetRequest(fleet, quiet=console.hides_progress, allow_networks=[address], proxied=False)
        # The demo compares ways to distribute downloads, so the limit per host must not be what it measures.
        unlimited = ThrottleOptions(HostLimit(int(limits.HOST_CONCURRENCY.greatest or 1)), adaptive=False)
        config = RunConfig(FetchOptions(throttle=unlimited))
        comparison = run_comparison(requests, url, place, config, measured, request)
    show_comparison(comparison, place)


@cloup.command(
    short_help="Run only the demo image server.",
    epilog=epilog(
        {
            "Serve images with a delay of 100 ms": "producer serve --latency 100ms",
            "Save a list of a hundred of its URLs": "curl 'http://127.0.0.1:8765/list?count=100' > urls.txt",
        },
        DURATION_HELP,
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port; 0 for any free one."
)
@click.option(
    "--latency",
    type=Duration(0.0),
    default="0ms",
    show_default=True,
    help="Delay before each image.",
)
@click.option(
    "--width", type=click.IntRange(1, 4096), default=400, show_default=True, help="Width of images in pixels."
)
@click.option(
    "--height", type=click.IntRange(1, 4096), default=200, show_default=True, help="Height of images in pixels."
)
def serve(host: str, port: int, latency: float, width: int, height: int) -> None:
    """Run only the demo image server, until Ctrl-C."""
    from producer.demo import DemoError, DemoOptions, serve

    def announce(url: str) -> None:
        address = url.removeprefix("http://")
        click.echo(f"Serving demo images at {url}")
        click.echo(f"{url}/ shows all routes, and {url}/list?count=10 is a URL list.")
        click.echo(
            f"To let workers fetch from this server, set IMAGEFLEET_ALLOW_NETWORKS={address} in their environment."
        )

    try:
        serve(DemoOptions(host, port, latency, width, height), announce)
    except DemoError as error:
        raise UsageError(
            f"The demo server can't listen on {host}:{port}",
            error.why,
            "Choose another --port, or 0 for any free one.",
        ) from error


@contextmanager
def _demo_server(latency: float, images: int) -> Iterator[str]:
    """Yield the URL of a demo server.

    If there is a broker, this is the configured demo server. Otherwise, a new demo server runs for the duration of the
    block.
    """
    from config.settings import settings
    from producer.local_fleet.demo_process import DemoProcess

    if settings().broker is None:
        with DemoProcess(latency, ready=min(images, 1000)) as server:
            yield server.url
        return
    url = settings().demo_url
    if url is None:
        raise UsageError(
            "The demo has no image server",
            "a broker is configured, and its workers can't reach a demo server started by this command",
            "Set IMAGEFLEET_DEMO_URL to a demo server within reach of the workers, or unset IMAGEFLEET_BROKER_URL.",
        )
    yield url.rstrip("/")


def _new_folder(name: str) -> Path:
    """Return the first name that no file or folder has: ``name``, ``name-2`` and so on."""
    numbers = iter(range(2, 1_000_000))
    folder = Path(name)
    while folder.exists():
        folder = Path(f"{name}-{next(numbers)}")
    return folder
