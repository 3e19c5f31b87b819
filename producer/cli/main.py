"""Define the commands. No other module prints.

Each command imports its modules when it runs, so that `producer --help` and usage errors answer at once.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from rich.console import Console

from config import VERSION, SettingsError, limits, streams
from tasks import file_descriptors, runtime_tuning
from tasks.download import headers
from tasks.errors import WORTH_RETRYING, CommandError, RunInterruptedError, UsageError
from tasks.model import FetchOptions, HeaderOptions, Reason, ResizeMode, ResizeOptions, Verify

if TYPE_CHECKING:
    from rich.console import RenderableType

    from producer.cli.progress_display import Display
    from producer.comparison.comparison import Comparison
    from producer.dispatch.dispatcher import Progress
    from producer.local_fleet.fleet import Fleet
    from producer.output.lock import LockHolder
    from producer.output.run_file import RunConfig
    from producer.runs.run import Run, RunResult, WorkerPool
    from tasks.model import ImageRequest
    from tasks.storage.store import Store

_F = TypeVar("_F", bound=Callable[..., Any])
#: Maximum width of printed text, in columns, without a terminal.
_PLAIN_WIDTH = 160
_EXIT_INTERRUPTED = 130
#: The signals to end a command.
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: The signal to cancel the run of a producer with a local fleet. With a broker, the cancellation is sent through it.
_CANCEL_SIGNAL = signal.SIGUSR1


class _Folder(click.Path):
    """A folder on this machine.

    An empty name, as from an unset shell variable, is refused instead of taken as the current folder.
    """

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the folder's name is empty", param, ctx)
        if scheme := _scheme(value):
            # As a path, it would create a folder named after the scheme here, and the run would report success.
            other = "mount the storage and give the path of the mount"
            hint = "give the path without file://" if scheme == "file" else other
            self.fail(f"{scheme}:// is not supported, only folders on this machine; {hint}", param, ctx)
        return super().convert(value, param, ctx)


class _List(click.ParamType[str]):
    """A SOURCE: the path of a file on this machine, or ``-`` for standard input."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if scheme := _scheme(value):
            other = "copy the list to this machine, or pipe it into the command with - as SOURCE"
            hint = "give the path without file://" if scheme == "file" else other
            self.fail(
                f"{scheme}:// is not supported, only files on this machine and - (standard input); {hint}",
                param,
                ctx,
            )
        return str(value)


def _scheme(value: Any) -> str | None:
    """Return the scheme, in lower case, of a URL given in place of a path; None for a path."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", value) if isinstance(value, str) else None
    return None if found is None else found[1].lower()


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pydantic import ByteSize, TypeAdapter, ValidationError

        try:
            count = int(TypeAdapter(ByteSize).validate_python(value))
        except ValidationError:
            self.fail(f"{value!r} is not a size, such as 500KiB or 64MiB", param, ctx)
        if count < 1:
            self.fail("a size must be at least one byte", param, ctx)
        return count


class _Duration(click.ParamType[float]):
    name = "duration"

    def __init__(self, least: float = 0.001) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        units = {"ms": 0.001, "s": 1.0, "m": 60.0}
        unit = next((unit for unit in units if text.endswith(unit)), "")
        try:
            seconds = float(text.removesuffix(unit)) * units.get(unit, 1.0)
        except ValueError:
            self.fail(f"{value!r} is not a duration, such as 300ms, 10 or 2m", param, ctx)
        if not self._least <= seconds < float("inf"):
            self.fail(f"it must be at least {self._least:g} s", param, ctx)
        return seconds


@dataclass(slots=True)
class JsonResult:
    """The result of a command with `--json`: one object on standard output, however the command ends."""

    #: Whether `--json` was given.
    as_json: bool = False
    #: The output folder of a comparison.
    comparison_folder: Path | None = None
    _run: tuple[str, Path] | None = None
    _emitted: bool = False

    def set_run(self, run: Run, out: Path) -> None:
        """Set the run for this command to report from now on."""
        self._run = run.id, out.resolve()

    @property
    def run(self) -> dict[str, str]:
        """The id and folder of the command's run, and the command to resume it; empty before there is a run."""
        if self._run is None:
            return {}
        from producer.output.run_file import resume_command
        from tasks.storage.store import Store

        run_id, folder = self._run
        return {"run_id": run_id, "out": str(folder), "resume": resume_command(Store(folder))}

    def emit(self, facts: dict[str, Any]) -> None:
        """Print an object, if `--json` was given and none has been printed."""
        if self.as_json and not self._emitted:
            # Set this first: an interruption after printing would print a second object.
            self._emitted = True
            click.echo(json.dumps(facts))


def _json_result() -> JsonResult:
    """Return the JSON result of the running command."""
    return click.get_current_context().ensure_object(JsonResult)


def _enable_json(context: click.Context, _: click.Parameter, wanted: bool) -> bool:
    context.ensure_object(JsonResult).as_json = wanted
    return wanted


def _combine(*decorators: Callable[[Any], Any]) -> Callable[[_F], _F]:
    return lambda function: reduce(lambda inner, wrap: wrap(inner), reversed(decorators), function)


_defaults = FetchOptions()
#: The options with the name and the value of a field of `FetchOptions`.
_FETCH_FIELDS = (
    *(
        "timeout",
        "deadline",
        "max_bytes",
        "retries",
        "max_retry_after",
        "max_redirects",
        "allow_downgrade",
        "ignore_opt_out",
    ),
    "insecure",
)
fetch_options = _combine(
    click.option(
        "--timeout",
        type=_Duration(),
        default=_defaults.timeout,
        show_default=True,
        help="Timeout for connecting and for each network read or write, in seconds.",
    ),
    click.option(
        "--deadline",
        type=_Duration(),
        default=_defaults.deadline,
        show_default=True,
        help="Time limit of an image in seconds, for all its attempts, waits and saving. "
        f"At most {limits.MAX_DEADLINE:g}.",
    ),
    click.option(
        "--max-bytes",
        type=_Size(),
        default="64MiB",
        show_default=True,
        help="Maximum size of an image, as downloaded.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, 10),
        default=_defaults.retries,
        show_default=True,
        help="Maximum number of attempts after the first, for possibly temporary errors.",
    ),
    click.option(
        "--max-retry-after",
        type=_Duration(0.0),
        default=_defaults.max_retry_after,
        show_default=True,
        help="Longest Retry-After, in seconds, to wait for in a download slot. For a longer one, of up to "
        f"{limits.MAX_COUNTDOWN:g}, the image is requeued, and retried in another slot after the wait.",
    ),
    click.option(
        "--max-redirects",
        type=click.IntRange(0, 50),
        default=_defaults.max_redirects,
        show_default=True,
        help="Maximum number of redirects to follow per URL.",
    ),
    click.option("--allow-downgrade", is_flag=True, help="Follow redirects from https to http."),
    click.option(
        "--ignore-opt-out",
        is_flag=True,
        help="Also download images if the server opts out by noai, noimageai, noindex or noimageindex (X-Robots-Tag).",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Also download from https servers with an unverifiable certificate or an old version of TLS. Needs "
        "workers with IMAGEFLEET_ALLOW_INSECURE_TLS set; manifests mark these images (tls_unverified).",
    ),
    click.option("--user-agent", metavar="TEXT", help="User-Agent header.  [default: imagefleet/VERSION]"),
    click.option("--referer", metavar="URL", help="Referer header."),
    click.option(
        "--header",
        "headers",
        metavar="NAME:VALUE",
        multiple=True,
        help="Extra request header, sent only to the host of the image's URL, not to other hosts after a redirect. "
        "Repeatable.",
    ),
    click.option(
        "--verify",
        type=click.Choice([way.value for way in Verify]),
        default=_defaults.verify.value,
        show_default=True,
        help="header: check an image by its header only. decode: also decode every frame.",
    ),
    click.option(
        "--resize",
        type=click.Choice([mode.value for mode in ResizeMode]),
        default=_defaults.resize.mode.value,
        show_default=True,
        help="no: save images unchanged. keep_ratio: save them as JPEG with a smaller side of --image-size.",
    ),
    click.option(
        "--image-size",
        type=click.IntRange(1, 10_000),
        help=f"Smaller side of resized images, in pixels.  [default: {_defaults.resize.image_size}]",
    ),
)
run_options = _combine(
    click.option(
        "--shard-size",
        type=click.IntRange(1, 10_000),
        default=1000,
        show_default=True,
        help="Number of images in a shard, which is one chord and has one manifest.",
    ),
    click.option(
        "--window",
        type=click.IntRange(1, 1000),
        default=8,
        show_default=True,
        help="Maximum number of shards in flight.",
    ),
)
fleet_options = _combine(
    click.option(
        "--workers",
        type=click.IntRange(1, 256),
        help="Number of worker processes in a local fleet.  [default: one per CPU core]",
    ),
    click.option(
        "--concurrency",
        type=click.IntRange(1, 256),
        default=limits.CONCURRENCY,
        show_default=True,
        help="Number of download slots in each worker process of a local fleet.",
    ),
)
flower_option = click.option("--flower", is_flag=True, help="Show a local fleet in Flower, on 127.0.0.1.")
broker_option = click.option(
    "--broker",
    metavar="URL",
    help="Use the Redis at this URL and the workers connected to it, instead of a local fleet.  "
    "[default: IMAGEFLEET_BROKER_URL]",
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    # Eager, so errors in other options are reported as an object too.
    is_eager=True,
    callback=_enable_json,
    help="Print one JSON object to standard output, however the command ends, and nothing else there.",
)
#: The formats of option values, for the end of help texts.
_DURATION_HELP = "A DURATION is a number of seconds, or a number with a unit: 10, 300ms, 2m."
_SIZE_HELP = "A SIZE is a number of bytes, or a number with a unit: 500KiB, 64MiB."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="imagefleet")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Download lists of image URLs with a fleet of Celery workers."""


@cli.command(epilog=f"{_DURATION_HELP} {_SIZE_HELP}")
@click.argument("source", type=_List())
@click.option(
    "--out",
    required=True,
    type=_Folder(),
    help="Folder for images, manifests and run.json.",
)
@click.option(
    "--refresh-from",
    "refresh_from",
    metavar="OLD",
    type=_Folder(),
    help="Folder of a previous run to refresh. Images reported as unchanged by their server are reused from it "
    "instead of downloaded.",
)
@run_options
@fetch_options
@fleet_options
@flower_option
@broker_option
@json_option
def run(source: str, out: Path, refresh_from: Path | None, broker: str | None, as_json: bool, **options: Any) -> None:
    """Download every image in SOURCE: a text file with one URL on each line, or - for standard input."""
    from producer.output.folder import new_run_folder
    from producer.sources import text as url_list

    frozen = _run_options(options)
    if _broker_url(broker) is None:
        _check_insecure(frozen)
    if refresh_from is not None:
        from producer.planning.previous_run import PreviousRun

        frozen = replace(frozen, previous_run=str(PreviousRun(refresh_from, out, frozen.fetch).folder))
    requests = url_list.nonempty(url_list.read(source), source)
    with (
        new_run_folder(out, _checked_broker_url(broker)) as store,
        _worker_pool(broker, options, [store.root], as_json, previous_run=frozen.previous_run) as pool,
    ):
        from producer.runs.run import Run

        with Run.begin(requests, source, store, frozen) as fresh:
            finished = _execute_run(fresh, pool, out, as_json)
    _show_result(finished, as_json)


@cli.command()
@click.argument("out", type=_Folder())
@fleet_options
@flower_option
@broker_option
@json_option
def resume(out: Path, broker: str | None, as_json: bool, **options: Any) -> None:
    """Resume the run in OUT, however it ended, with the options it was started with.

    Finished images are not downloaded again. If the URL list was not fully read, reading continues; the list must be
    unchanged.
    """
    from producer.output.folder import existing_run

    store = existing_run(out)
    with _hold_lock(store, broker, "resume"):
        from producer.runs.run import Run

        _continue_run(Run.resume(store), "The run is complete. There is nothing to do.", out, broker, as_json, options)


@cli.command()
@click.argument("out", type=_Folder())
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice([reason.value for reason in Reason]),
    help=f"Retry images that failed for this reason. Repeatable.  [default: {', '.join(WORTH_RETRYING)}]",
)
@click.option("--all", "everything", is_flag=True, help="Retry all failed images.")
@fleet_options
@flower_option
@broker_option
@json_option
def retry(
    out: Path, reasons: tuple[str, ...], everything: bool, broker: str | None, as_json: bool, **options: Any
) -> None:
    """Retry failed images of the finished run in OUT, and report the changes. Nothing else is downloaded."""
    from producer.output.folder import existing_run

    if reasons and everything:
        raise click.UsageError("--reason and --all can't be used together")
    chosen = reasons or tuple(reason.value for reason in (Reason if everything else WORTH_RETRYING))
    store = existing_run(out)
    with _hold_lock(store, broker, "retry"):
        from producer.runs.run import Run

        _continue_run(
            Run.retry(store, chosen),
            "No image failed for these reasons. There is nothing to do.",
            out,
            broker,
            as_json,
            options,
        )


@cli.command()
@click.argument("out", type=_Folder())
@broker_option
def cancel(out: Path, broker: str | None) -> None:
    """Cancel the run in OUT and drop its queued tasks. Finished images stay, and the run can be resumed."""
    from producer.output.folder import existing_run

    _refuse_empty(broker)
    store = existing_run(out)
    from producer.runs.run import cancel as ended

    click.echo(ended(store, broker, _signal_cancel), err=True)


@cli.command(epilog=f"{_DURATION_HELP} {_SIZE_HELP}")
@click.argument("source", type=_List())
@click.option(
    "--out",
    required=True,
    type=_Folder(),
    help="Folder for the chart and the images, with a folder for each way.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="Maximum number of threads of the second way.",
)
@run_options
@fetch_options
@fleet_options
@flower_option
@broker_option
@json_option
def compare(source: str, out: Path, broker: str | None, as_json: bool, **options: Any) -> None:
    """Download SOURCE in three ways, one by one, with threads and with a fleet, and compare their times."""
    from config.settings import settings
    from producer.output.folder import remove_created_on_failure
    from producer.sources import text as url_list

    requests = list(url_list.nonempty(url_list.read(source), source))
    allow = settings().allow_networks
    with remove_created_on_failure(out):
        comparison = _compare(requests, source, out, options, broker, allow, as_json)
    _show_comparison(comparison, out, as_json)


@cli.command(epilog=_DURATION_HELP)
@click.option(
    "--images", type=click.IntRange(1, 100_000), default=10, show_default=True, help="Number of images to download."
)
@click.option(
    "--latency",
    type=_Duration(0.0),
    default="300ms",
    show_default=True,
    help="Delay of the demo server before each response.",
)
@click.option(
    "--out",
    type=_Folder(),
    help="Folder for the images and the chart.  [default: a new imagefleet-demo folder here]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="Maximum number of threads of the second way.",
)
@fleet_options
@flower_option
@json_option
def demo(images: int, latency: float, out: Path | None, as_json: bool, **options: Any) -> None:
    """Serve demo images on this machine and download them in three ways. Needs no network, Redis or Docker.

    If a broker is configured, its workers are the fleet, and the images come from the demo server at
    IMAGEFLEET_DEMO_URL.
    """
    from producer.output.folder import remove_created_on_failure
    from tasks.model import ImageRequest

    place = out or _new_folder("imagefleet-demo")
    options = _with_defaults(options)
    with _demo_server(latency, images) as url, remove_created_on_failure(place):
        _print_note(f"Downloading {images} images from {url}, which delays each by {latency * 1000:.0f} ms", as_json)
        kinds = ("jpg", "png", "webp", "gif")
        requests = [
            ImageRequest(index, f"{url}/images/{index}.{kinds[index % len(kinds)]}?latency={latency}")
            for index in range(images)
        ]
        address = url.removeprefix("http://")
        # The server is on this machine or among the workers, where a proxy may be unable to reach it.
        comparison = _compare(requests, url, place, options, None, [address], as_json, proxied=False)
    _show_comparison(comparison, place, as_json)


@cli.command(epilog=_DURATION_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Port; 0 for any free one."
)
@click.option(
    "--latency",
    type=_Duration(0.0),
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
        click.echo(f"Serving demo images at {url}  (routes: {url}/ , a list: {url}/list?count=10)")
        click.echo(f"Workers may fetch from it with IMAGEFLEET_ALLOW_NETWORKS={address}")

    try:
        serve(DemoOptions(host, port, latency, width, height), announce)
    except DemoError as error:
        raise UsageError(
            f"The demo server can't listen on {host}:{port}",
            error.why,
            "Choose another --port, or 0 for any free one.",
        ) from error


@cli.command()
@click.option(
    "--store-root",
    "store_roots",
    multiple=True,
    type=_Folder(),
    help="Folder to which the workers may write, subfolders included. Repeatable.  [default: the current folder]",
)
@fleet_options
def fleet(store_roots: tuple[Path, ...], **options: Any) -> None:
    """Run a local fleet with Flower until Ctrl-C, for any number of runs."""
    _check_network_settings()
    roots = [root.resolve() for root in store_roots or (Path(),)]
    with _local_fleet({**options, "flower": True}, roots) as kept:
        click.echo(f"The fleet is ready after {kept.startup_seconds:.2f} s: {_describe_size(kept)}.")
        click.echo(f"It may write to {', '.join(str(root) for root in roots)}, subfolders included.")
        click.echo("To use it, run in another terminal:")
        click.echo(f"  producer run SOURCE --out OUT --broker {kept.broker_url}")
        click.echo("Press Ctrl-C to stop it.")
        try:
            while True:
                kept.check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            _print_note("Stopping the fleet …", quiet=False)


@cli.command()
@click.option(
    "--out", type=_Folder(), help="Output folder to check with its run, on this machine and from each worker."
)
@broker_option
@json_option
def doctor(out: Path | None, broker: str | None, as_json: bool) -> None:
    """Check broker, workers, clocks, and an output folder with its run, and say how to fix problems.

    The exit status is 1 if a check finds something bad.
    """
    from producer.doctor.diagnosis import diagnose

    _refuse_empty(broker)
    diagnosis = diagnose(broker, out)
    _json_result().emit(diagnosis.to_json())
    if not as_json:
        from producer.cli import render

        _show(render.render_diagnosis(diagnosis))
    sys.exit(0 if diagnosis.healthy else 1)


def _signal_cancel(holder: LockHolder) -> bool:
    """Signal a producer on this host to cancel its run. Return False for a producer on another host."""
    if holder.host != socket.gethostname():
        return False
    with suppress(ProcessLookupError):
        os.kill(holder.pid, _CANCEL_SIGNAL)
    return True


def _continue_run(
    run: Run, nothing: str, out: Path, broker: str | None, as_json: bool, options: dict[str, Any]
) -> None:
    """Continue an earlier run to its end, if there is anything to do."""
    if run.is_done:
        _print_note(nothing, as_json)
        _show_result(run.summary(), as_json)
        return
    if run.abandoned:
        _print_note(
            "The previous producer died without recording why (killed, or disk full). Continuing the run.",
            quiet=False,
        )
    _note_broker_change(run.broker, broker)
    _json_result().set_run(run, out)
    with run, _worker_pool(broker, options, [out.resolve()], as_json, previous_run=run.previous_run) as pool:
        finished = _execute_run(run, pool, out, as_json)
    _show_result(finished, as_json)


def _note_broker_change(before: str | None, broker: str | None) -> None:
    """Print a note if a run continues at another broker than before, or with a local fleet."""
    from tasks.redaction import redacted

    url = _broker_url(broker)
    now = None if url is None else redacted(url)
    if before is not None and now != before:
        place = "with a local fleet here" if now is None else f"at {now}"
        _print_note(
            f"The run used the broker {before} before; it continues {place}. Use --broker to choose another.",
            quiet=False,
        )


def _execute_run(run: Run, pool: WorkerPool, out: Path, as_json: bool) -> RunResult:
    """Execute a run and show its progress.

    A first Ctrl-C or SIGTERM lets it finish the downloads in progress; a second one drops them.
    """
    from producer.cli.progress_display import Display

    def ask(*_: object) -> None:
        for number in before:
            signal.signal(number, _interrupt)
        # The display announces it, because the interrupted code may be printing.
        run.finish()

    _json_result().set_run(run, out)
    handlers = {number: signal.getsignal(number) for number in _END_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, ask)
    try:
        with Display(_console(sys.stderr), quiet=as_json) as display:
            return run.execute(pool, partial(_show_run, display))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_result(result: RunResult, as_json: bool) -> None:
    if as_json:
        facts = {"run_id": result.run_id, "source": result.source, "out": str(result.out), **result.totals()}
        if result.before is not None:
            facts["retried"] = result.before
        if result.completion is not None:
            facts["completed"] = asdict(result.completion)
        _json_result().emit(facts)
        return
    from producer.cli import render

    _show(render.render_run(result))


@contextmanager
def _hold_lock(store: Store, broker: str | None, command: str) -> Iterator[None]:
    """Hold the lock of an output folder for a command with this name."""
    from producer.output import lock

    with lock.hold(store, _checked_broker_url(broker), command):
        yield


def main() -> NoReturn:
    """Run the command line, and exit with its status."""
    streams.set_up()
    runtime_tuning.reduce_garbage_collection()
    runtime_tuning.return_large_blocks()
    # Processes started by the command inherit the limit.
    file_descriptors.raise_limit()
    # SIGTERM ends a command like Ctrl-C: all its child processes are stopped.
    _handle(_END_SIGNALS, _interrupt)
    signal.signal(_CANCEL_SIGNAL, _cancel)
    sys.unraisablehook = partial(_raise_dropped_interrupt, sys.unraisablehook)
    result = JsonResult()
    _exit(
        _run_command_line(result, debug="--debug" in sys.argv[1:2]), is_comparison=result.comparison_folder is not None
    )


def _handle(signals: Iterable[signal.Signals], handler: Callable[..., Any] | signal.Handlers) -> None:
    """Set the handler of signals, except those ignored from the start of the process, as with `nohup`."""
    for number in signals:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _exit(status: Any, is_comparison: bool) -> NoReturn:
    """Exit with a status. After the interruption of a comparison, don't wait for its threads.

    A signal during the exit only ends the process sooner, with the same status. Python resets handlers when it
    finalizes, so the last step is to ignore signals; otherwise Ctrl-C would kill the process there, and its exit status
    would be lost.
    """
    atexit.register(_handle, (*_END_SIGNALS, _CANCEL_SIGNAL), signal.SIG_IGN)
    _handle((*_END_SIGNALS, _CANCEL_SIGNAL), lambda *_: os._exit(status or 0))
    if is_comparison and status == _EXIT_INTERRUPTED and any(not thread.daemon for thread in threading.enumerate()[1:]):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_EXIT_INTERRUPTED)
    sys.exit(status)


def _run_command_line(result: JsonResult, debug: bool) -> Any:
    """Run the command line, report how it ended, and return the exit status. With ``debug``, raise errors."""
    try:
        return cli(standalone_mode=False, obj=result)
    except SystemExit as error:
        return error.code
    except click.ClickException as error:
        _print_error_json(result, _usage_error(error))
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, RunInterruptedError, click.Abort) as error:
        # The rest takes milliseconds. Ignore another Ctrl-C, so that the user still gets the command to resume.
        _handle(_END_SIGNALS, lambda *_: None)
        # Click replaces an interruption by an Abort.
        cancelled = isinstance(error.__cause__ or error, _Cancelled) or (
            isinstance(error, RunInterruptedError) and error.cancelled
        )
        run = result.run
        result.emit({"interrupted": True, "cancelled": cancelled, **run})
        what = "Cancelled by another command." if cancelled else "Interrupted."
        if run:
            _print_note(f"{what} Saved images and manifests are kept.", quiet=False)
            _print_note(f"Resume with: {run['resume']}", quiet=False)
        elif result.comparison_folder is not None:
            _print_note(
                f"{what} Saved images are kept in {result.comparison_folder}. A comparison can't be resumed.",
                quiet=False,
            )
        else:
            _print_note(what, quiet=False)
        return _EXIT_INTERRUPTED
    except Exception as error:
        command_error = _command_error(error)
        _print_error_json(result, command_error)
        if debug:
            raise
        from producer.cli import render

        _show(render.render_error(command_error), sys.stderr)
        return command_error.exit_code


def _command_error(error: Exception) -> CommandError:
    """Return the exception that ended a command as an error for the user."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, SettingsError):
        hint = "Correct the variable or unset it; see docs/settings.md."
        return UsageError("A setting is invalid", str(error), hint)
    return CommandError(
        "Unexpected error",
        f"{type(error).__name__}: {error}",
        "Run it again with `producer --debug …`, and report the output.",
    )


def _usage_error(error: click.ClickException) -> CommandError:
    """Return a usage error found by Click."""
    context = getattr(error, "ctx", None)
    command = "producer" if context is None else context.command_path
    return UsageError("The command line is invalid", error.format_message(), f"See `{command} --help`.")


def _print_error_json(result: JsonResult, error: CommandError) -> None:
    if result.as_json:
        from producer.cli.render import sanitized

        said = {"what": sanitized(error.what), "why": sanitized(error.why), "todo": sanitized(error.hint)}
        result.emit({"error": {**said, "exit_code": error.exit_code}, **result.run})


@contextmanager
def _demo_server(latency: float, images: int) -> Iterator[str]:
    """Yield the URL of a demo server: with a configured broker the configured one, else one started for the block."""
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


def _compare(
    requests: Sequence[ImageRequest],
    source: str,
    out: Path,
    options: dict[str, Any],
    broker: str | None,
    allow: Sequence[str],
    quiet: bool,
    proxied: bool = True,
) -> Comparison:
    from producer.cli.progress_display import Display
    from producer.comparison import comparison
    from producer.output.folder import prepare_output
    from tasks.download import downloader as downloading

    frozen = _run_options(options)
    # The first two ways run in this process.
    runtime_tuning.configure_pillow()
    _check_insecure(frozen)
    file_descriptors.check_slots(options["threads"], "--threads")
    root = prepare_output(out).root
    _json_result().comparison_folder = out
    places = comparison.stores(root)
    downloader = downloading.create_downloader(allow, proxied)
    with (
        _worker_pool(broker, options, [places[comparison.FLEET].root], quiet, allow, proxied) as pool,
        Display(_console(sys.stderr), quiet) as display,
    ):
        found = comparison.compare(
            requests,
            source,
            places,
            frozen,
            options["threads"],
            downloader,
            pool,
            lambda way, ended: display.show(way, ended, len(requests)),
        )
        if options["flower"] and sys.stdin.isatty() and not quiet:
            display.close()
            click.pause("Flower shows the fleet. Press any key to stop it.", err=True)
        return found


def _show_comparison(comparison: Comparison, out: Path, as_json: bool) -> None:
    from producer.cli import render
    from producer.comparison import chart
    from producer.doctor import folder_checks

    picture, numbers = out / "comparison.svg", out / folder_checks.COMPARISON
    chart.draw(comparison, picture)
    facts = {**comparison.to_json(), "out": str(out.resolve()), "chart": str(picture.resolve())}
    numbers.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    _json_result().emit(facts)
    if as_json:
        return
    _show(render.render_comparison(comparison))
    click.echo(f"Images are in {out}, a folder for each way; the chart is {picture}.")


@contextmanager
def _worker_pool(
    broker: str | None,
    options: dict[str, Any],
    roots: Sequence[Path],
    quiet: bool,
    allow: Sequence[str] | None = None,
    proxied: bool = True,
    previous_run: str | None = None,
) -> Iterator[WorkerPool]:
    """Yield the workers of a run: those at the broker, or else a local fleet for the duration of the block."""
    url = _broker_url(broker)
    if url is None:
        previous_run_folders = () if previous_run is None else [Path(previous_run)]
        with _local_fleet(options, roots, quiet, allow, proxied, previous_run_folders) as fleet:
            # Importing this takes half a second, so the fleet starts first.
            from producer.runs.run import local_pool

            yield local_pool(fleet)
        return
    from producer.runs.run import broker_pool

    pool = broker_pool(url, roots[0], options.get("insecure", False))
    for warning in pool.warnings:
        _print_note(f"Warning: {warning}.", quiet=False)
    if not pool.workers:
        _print_note(
            "No worker has answered at the broker. The run waits for one; start it with\n"
            "  celery -A tasks worker  (with IMAGEFLEET_BROKER_URL and IMAGEFLEET_STORE_ROOTS set)",
            quiet=False,
        )
    yield pool


def _checked_broker_url(broker: str | None) -> str | None:
    """Return the URL of a command's broker, or None for a local fleet, after a check of its workers' settings.

    Raises:
        SettingsError: a variable is invalid, or would keep workers with this environment from starting.
    """
    url = _broker_url(broker)
    if url is None:
        _check_network_settings()
    return url


def _broker_url(broker: str | None) -> str | None:
    """Return the URL of the broker as given, or else from the environment; None for a local fleet."""
    from config.settings import settings

    _refuse_empty(broker)
    return broker or settings().broker


def _check_insecure(options: RunConfig) -> None:
    """Check that a run may be insecure in this process's environment, which a local fleet inherits.

    Raises:
        UsageError: the run is insecure, and the environment does not allow it.
    """
    from config.settings import settings

    if options.fetch.insecure and not settings().allow_insecure_tls:
        raise UsageError(
            "--insecure is not allowed here",
            "the operator of the workers must allow it, and IMAGEFLEET_ALLOW_INSECURE_TLS is not set",
            "Set IMAGEFLEET_ALLOW_INSECURE_TLS=true, or omit --insecure.",
        )


def _check_network_settings() -> None:
    """Check the workers' settings in this environment before workers are started.

    Raises:
        SettingsError: a setting would keep them from starting.
    """
    from config.settings import settings
    from tasks.download import network_settings

    # The broker's settings must be valid too, because every process reads them.
    _ = settings().broker
    for trouble in network_settings.validate():
        raise trouble


def _refuse_empty(broker: str | None) -> None:
    if broker == "":
        raise click.BadParameter("the URL is empty", param_hint="--broker")


@contextmanager
def _local_fleet(
    options: dict[str, Any],
    roots: Sequence[Path],
    quiet: bool = False,
    allow: Sequence[str] | None = None,
    proxied: bool = True,
    previous_run_folders: Sequence[Path] = (),
) -> Iterator[Fleet]:
    from config.settings import unknown_variables
    from producer.cli.progress_display import show_waiting
    from producer.local_fleet.fleet import Fleet, FleetSize, cores

    if unknown := unknown_variables(os.environ):
        _print_note(f"Warning: unknown environment variables are ignored: {', '.join(unknown)}.", quiet=False)
    size = FleetSize(options["workers"] or len(cores()), options["concurrency"])
    text = f"Starting {_workers(size.workers)}"
    with ExitStack() as stack:
        fleet = Fleet(size, roots, allow, options["flower"], previous_run_folders, proxied)
        with show_waiting(_console(sys.stderr), text, quiet):
            stack.enter_context(fleet)
        if fleet.flower is not None:
            _print_note(f"Flower is at {fleet.flower.text}", quiet=False)
        yield fleet


def _with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    from producer.output.run_file import RunConfig

    frozen = RunConfig()
    fetch = frozen.fetch
    return {
        "shard_size": frozen.shard_size,
        "window": frozen.window,
        **{name: getattr(fetch, name) for name in _FETCH_FIELDS},
        "user_agent": None,
        "referer": None,
        "headers": (),
        "verify": fetch.verify,
        "resize": fetch.resize.mode,
        "image_size": None,
        **options,
    }


def _run_options(options: dict[str, Any]) -> RunConfig:
    from producer.output.run_file import RunConfig

    if options["deadline"] > limits.MAX_DEADLINE:
        raise click.BadParameter(
            f"it must be at most {limits.MAX_DEADLINE:g} s. Redis gives a task to another worker "
            f"{limits.VISIBILITY_TIMEOUT} s after the first one took it, and this time includes waiting",
            param_hint="--deadline",
        )
    fetch = replace(
        FetchOptions(),
        resize=_resize_options(options),
        headers=_header_options(options),
        verify=Verify(options["verify"]),
        **{name: options[name] for name in _FETCH_FIELDS},
    )
    return RunConfig(fetch, options["shard_size"], options["window"])


def _header_options(options: dict[str, Any]) -> HeaderOptions:
    given = {"--user-agent": options["user_agent"], "--referer": options["referer"]}
    for name, value in given.items():
        try:
            given[name] = None if value is None else headers.checked_value(value)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=name) from error
    try:
        added = tuple(headers.checked_header(*_split_header(header)) for header in options["headers"])
    except ValueError as error:
        # The header itself may be a secret.
        raise click.BadParameter(str(error), param_hint="--header") from error
    return HeaderOptions(given["--user-agent"], given["--referer"], added)


def _split_header(header: str) -> tuple[str, str]:
    name, colon, value = header.partition(":")
    if not colon:
        raise ValueError("there is no colon between the header's name and value; write it as NAME:VALUE")
    return name, value


def _resize_options(options: dict[str, Any]) -> ResizeOptions:
    mode, size = ResizeMode(options["resize"]), options["image_size"]
    if size is None:
        return ResizeOptions(mode)
    if mode is ResizeMode.NO:
        raise click.BadParameter("images are not resized; add --resize keep_ratio", param_hint="--image-size")
    return ResizeOptions(mode, size)


def _show_run(display: Display, progress: Progress) -> None:
    from producer.cli.render import describe_failures, format_size

    detail = f"{format_size(progress.bytes)}, {describe_failures(progress)}"
    if progress.done_before:
        # Images are counted for the whole run, the details for this command.
        detail = f"{progress.done_before:,} were done before; since then {detail}"
    total = progress.planned if progress.plan_complete else None
    note = progress.note
    if progress.finishing:
        some, them = ("1 download", "it") if progress.finishing == 1 else (f"{progress.finishing:,} downloads", "them")
        display.announce(f"Finishing {some} in progress. Press Ctrl-C again to drop {them}.")
        note = f"finishing {progress.finishing:,} more"
    ended = progress.done_before + progress.success + progress.failed
    display.show("images", ended, total, detail, note, progress.done_before, progress.finishing is not None)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _describe_size(fleet: Fleet) -> str:
    return f"{_workers(fleet.size.workers)} with {fleet.size.concurrency} slots each"


def _new_folder(name: str) -> Path:
    """Return the first name not taken by a file or folder: ``name``, ``name-2`` and so on."""
    numbers = iter(range(2, 1_000_000))
    folder = Path(name)
    while folder.exists():
        folder = Path(f"{name}-{next(numbers)}")
    return folder


def _console(stream: Any) -> Console:
    return Console(file=stream, width=None if stream.isatty() else _PLAIN_WIDTH)


def _show(shown: RenderableType, stream: Any = None) -> None:
    """Print a rendered report, by default to standard output."""
    stream = stream or sys.stdout
    console = _console(stream)
    if stream.isatty():
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    # Leave out the padding of tables, which is of no use in a file.
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()), file=stream)


def _print_note(text: str, quiet: bool) -> None:
    if not quiet:
        click.echo(text, err=True)


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    It has its own class because of a trap with a plain KeyboardInterrupt. Once one has passed through code run by
    `exec`, as the creation of a dataclass is, Python ends itself by SIGINT, whatever the exit status.
    """


class _Cancelled(_Interrupted):
    """`producer cancel` has signalled a producer with a local fleet."""


def _interrupt(*_: object) -> NoReturn:
    raise _Interrupted


def _cancel(*_: object) -> NoReturn:
    raise _Cancelled


def _raise_dropped_interrupt(report: Callable[[Any], object], dropped: Any) -> None:
    """Interrupt again, because Python drops an exception raised while an object is being destroyed."""
    if dropped.exc_type in (_Interrupted, _Cancelled):
        # Not at once, or it would be dropped again.
        signal.signal(signal.SIGALRM, _cancel if dropped.exc_type is _Cancelled else _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        report(dropped)
