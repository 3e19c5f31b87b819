"""The commands that start, continue and cancel a run."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import click
import cloup
from click.core import ParameterSource

from config.locations import Location, resolved
from producer.cli import json_log
from producer.cli.console import create_console, print_note, show
from producer.cli.examples import epilog
from producer.cli.fleets import FleetRequest, get_worker_pool
from producer.cli.json_result import current_result
from producer.cli.metrics import metrics_option, serve_metrics
from producer.cli.output_parameters import OutputParameters, output_options
from producer.cli.parameter_types import OutputLocation, UrlList
from producer.cli.parameters import (
    DURATION_HELP,
    REASON_HELP,
    SIZE_HELP,
    ConsoleParameters,
    DownloadParameters,
    FleetParameters,
    broker_option,
    console_options,
    download_options,
    json_option,
    worker_options,
)
from producer.cli.report_command import build_after_run, save_after_run
from producer.cli.signals import CANCEL_SIGNAL, first_signal_calls
from producer.cli.source_parameters import COLUMN_HELP, SourceParameters, source_options
from producer.formatting import pluralized
from producer.runs.incremental_mode import IncrementalMode
from producer.runs.preflight import checked_broker_url, checked_config, find_broker_url
from tasks.errors import WORTH_RETRYING
from tasks.model import Reason

if TYPE_CHECKING:
    from producer.cli.progress_display import Display
    from producer.dispatch.progress import Progress
    from producer.output.lock import LockHolder
    from producer.runs.result import RunResult
    from producer.runs.run import Run
    from producer.runs.run_metrics import RunMetrics
    from producer.runs.worker_pool import WorkerPool
    from tasks.storage.store import Store

_ALREADY_COMPLETE = "The run is complete. There is nothing to do."


@cloup.command(
    short_help="Download every image of a list of URLs.",
    epilog=epilog(
        {
            "Download a list with one URL on each line": "producer run urls.txt --out images",
            "Download a table with captions into tar shards": "producer run captions.csv --out data "
            "--caption-col caption --output-format webdataset",
            "Save square thumbnails": "producer run urls.txt --out thumbs --resize center_crop --image-size 256",
            "Send each host at most five requests per second": "producer run urls.txt --out images --per-host-rate 5",
            "Use the workers at a Redis, on any number of machines": "producer run urls.txt --out s3://bucket/images "
            "--broker redis://broker:6379/0",
        },
        f"{COLUMN_HELP} {DURATION_HELP} {SIZE_HELP}",
    ),
)
@click.argument("source", type=UrlList())
@cloup.option_group(
    "Output folder",
    click.option(
        "--out",
        required=True,
        type=OutputLocation(),
        help="Folder for images, manifests and run.json: a path, or the URL of an object store such as s3://bucket/prefix.",
    ),
    click.option(
        "--refresh-from",
        "refresh_from",
        metavar="OLD",
        type=OutputLocation(),
        help="Folder of a previous run to refresh. If a server reports an image as unchanged, the image is reused from "
        "this folder instead of downloaded.",
    ),
    click.option(
        "--incremental",
        type=click.Choice([mode.value for mode in IncrementalMode]),
        help="What to do if the folder of --out holds a run. skip: continue it, if it has the same list and options. "
        "overwrite: remove it, and begin a new run. extend: add SOURCE to it, as new shards.  "
        "[default: refuse the folder]",
    ),
)
@source_options
@output_options
@download_options
@worker_options
@metrics_option
@console_options
def run(
    source: str,
    out: Location,
    refresh_from: Location | None,
    incremental: str | None,
    reading: SourceParameters,
    download: DownloadParameters,
    output: OutputParameters,
    fleet: FleetParameters,
    broker: str | None,
    metrics_port: int | None,
    console: ConsoleParameters,
) -> None:
    """Download every image in SOURCE: a list of URLs, one on each line or in a table.

    SOURCE is a path, a URL (https, http, s3, gs, az), or - for standard input.
    """
    from producer.output.run_file import RunFile
    from producer.runs import incremental as starting
    from producer.sources import url_list

    mode = None if incremental is None else IncrementalMode(incremental)
    url = checked_broker_url(broker)
    previous = None if refresh_from is None else str(refresh_from)
    config = replace(
        download.run_config(), source=reading.options(), output=output.output_options(), previous_run=previous
    )
    config = checked_config(config, out, url)
    requests = url_list.require_urls(url_list.read(source, config.source), source)
    wanted = starting.RunRequest(source, requests, config, _given_options())
    request = FleetRequest(fleet, broker, [resolved(out)], console.hides_progress)
    with serve_metrics(metrics_port, request.quiet) as metrics, starting.run_folder(out, url, mode) as store:
        if mode is IncrementalMode.SKIP and RunFile.is_in(store):
            _continue_run(starting.resume_same(wanted, store), _ALREADY_COMPLETE, out, request, metrics)
            return
        prepared = starting.prepare(wanted, mode, store, url)
        options = prepared.config
        request = replace(request, previous_run=options.previous_run, insecure=options.fetch.insecure)
        with get_worker_pool(request) as pool, prepared.start() as started:
            finished, save = _execute_run(started, pool, out, request.quiet, metrics)
        _show_result(finished, save_after_run(save, out))


def _given_options() -> frozenset[str]:
    """Return the options on the command line, such as ``--timeout``."""
    context = click.get_current_context()
    given = (
        param
        for param in context.command.params
        if param.name is not None and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    )
    return frozenset(name for param in given for name in param.opts)


@cloup.command(
    short_help="Continue a run, however it ended.",
    epilog=epilog(
        {
            "Continue a run": "producer resume images",
            "Continue it with the workers at a Redis": "producer resume images --broker redis://broker:6379/0",
        }
    ),
)
@click.argument("out", type=OutputLocation())
@worker_options
@metrics_option
@console_options
def resume(
    out: Location, fleet: FleetParameters, broker: str | None, metrics_port: int | None, console: ConsoleParameters
) -> None:
    """Resume the run in OUT with its own options, no matter how it ended.

    Finished images are not downloaded again. If the URL list was not fully read, reading continues. The list must be
    unchanged.
    """
    from producer.output.folder import existing_run

    store = existing_run(out)
    with serve_metrics(metrics_port, console.hides_progress) as metrics, _hold_lock(store, broker, "resume"):
        from producer.runs.run import Run

        request = FleetRequest(fleet, broker, [resolved(out)], console.hides_progress)
        _continue_run(Run.resume(store), _ALREADY_COMPLETE, out, request, metrics)


@cloup.command(
    short_help="Retry failed images of a complete run.",
    epilog=epilog(
        {
            "Retry the failures that may be temporary": "producer retry images",
            "Retry what was not found, and what timed out": "producer retry images --reason http_4xx --reason timeout",
            "Retry everything that failed": "producer retry images --all",
        },
        REASON_HELP,
    ),
)
@click.argument("out", type=OutputLocation())
@cloup.option_group(
    "Which images to retry",
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        metavar="REASON",
        type=click.Choice([reason.value for reason in Reason]),
        help=f"Retry images that failed for this reason. Repeatable.  [default: {', '.join(WORTH_RETRYING)}]",
    ),
    click.option("--all", "everything", is_flag=True, help="Retry all failed images."),
)
@worker_options
@metrics_option
@console_options
def retry(
    out: Location,
    reasons: tuple[str, ...],
    everything: bool,
    fleet: FleetParameters,
    broker: str | None,
    metrics_port: int | None,
    console: ConsoleParameters,
) -> None:
    """Retry failed images of the finished run in OUT, and report the changes. Nothing else is downloaded."""
    from producer.output.folder import existing_run

    if reasons and everything:
        raise click.UsageError("--reason and --all can't be used together")
    chosen = reasons or tuple(reason.value for reason in (Reason if everything else WORTH_RETRYING))
    store = existing_run(out)
    with serve_metrics(metrics_port, console.hides_progress) as metrics, _hold_lock(store, broker, "retry"):
        from producer.runs.run import Run

        request = FleetRequest(fleet, broker, [resolved(out)], console.hides_progress)
        failed = "No image failed." if everything else "No image failed for these reasons."
        _continue_run(Run.retry(store, chosen), f"{failed} There is nothing to do.", out, request, metrics)


@cloup.command(
    short_help="Cancel a run from another terminal.",
    epilog=epilog({"Cancel a run from another terminal": "producer cancel images"}),
)
@click.argument("out", type=OutputLocation())
@broker_option
@json_option
def cancel(out: Location, broker: str | None, as_json: bool) -> None:
    """Cancel the run in OUT and drop its queued tasks. Finished images stay, and the run can be resumed."""
    from producer.output.folder import existing_run

    store = existing_run(out)
    from producer.output.run_file import State, resume_command
    from producer.runs.cancel import cancel as end

    ended = end(store, broker, _signal_cancel)
    print_note(ended.message, as_json)
    facts = {"run_id": ended.run_id, "out": store.location, "state": ended.state}
    resuming = {"resume": resume_command(store)} if ended.state is State.CANCELLED else {}
    current_result().emit({**facts, **resuming})


def _signal_cancel(holder: LockHolder) -> bool:
    """Signal a producer on this host to cancel its run. Return False for a producer on another host."""
    if holder.host != socket.gethostname():
        return False
    with suppress(ProcessLookupError):
        os.kill(holder.pid, CANCEL_SIGNAL)
    return True


def _continue_run(run: Run, nothing: str, out: Location, request: FleetRequest, metrics: RunMetrics | None) -> None:
    """Continue an earlier run to its end; print the text ``nothing`` if there is nothing to do."""
    if run.is_done:
        print_note(nothing, request.quiet)
        _show_result(run.summary())
        return
    if run.abandoned:
        print_note(
            "The previous producer died without recording why (killed, or disk full). Continuing the run.",
            quiet=False,
        )
    _note_broker_change(run.broker, request.broker)
    current_result().set_run(run, out)
    with run, get_worker_pool(replace(request, previous_run=run.previous_run)) as pool:
        finished, save = _execute_run(run, pool, out, request.quiet, metrics)
    _show_result(finished, save_after_run(save, out))


def _note_broker_change(before: str | None, broker: str | None) -> None:
    """Print a note if a run had a broker, and now continues at a different broker or with a local fleet."""
    from tasks.redaction import redacted

    url = find_broker_url(broker)
    now = None if url is None else redacted(url)
    if before is not None and now != before:
        place = "with a local fleet here" if now is None else f"at {now}"
        print_note(
            f"The run used the broker {before} before. Now it continues {place}. To use another one, add --broker.",
            quiet=False,
        )


def _execute_run(
    run: Run, pool: WorkerPool, out: Location, quiet: bool, metrics: RunMetrics | None
) -> tuple[RunResult, Callable[[], str] | None]:
    """Execute a run, and show its progress. Return its result, and the function that saves its report.

    The first Ctrl-C or SIGTERM lets the run finish its current downloads. The second signal drops these downloads.
    """
    from producer.cli.progress_display import Display

    current_result().set_run(run, out)
    # The signal handler does not print, because it may have interrupted code that is printing. The display announces
    # the end instead.
    with first_signal_calls(run.finish), Display(create_console(sys.stderr), quiet) as display:
        if metrics is not None:
            metrics.start(run.id, pool.broker_url)
        result = run.execute(pool, partial(_show_run, display, metrics=metrics))
    if metrics is not None:
        metrics.finish(result.summary)
    # The report is built while the processes end. It is saved afterwards, because the end of a local fleet removes the
    # folder for temporary files.
    pool.begin_stop()
    return result, build_after_run(out)


def _show_run(display: Display, progress: Progress, metrics: RunMetrics | None) -> None:
    if metrics is not None:
        metrics.update(progress)
    if progress.finishing:
        them = "it" if progress.finishing == 1 else "them"
        downloads = pluralized(progress.finishing, "download")
        display.announce(f"Finishing {downloads} in progress. Press Ctrl-C again to drop {them}.")
    display.show(progress)


def _show_result(result: RunResult, report: str | None = None) -> None:
    """Show the result of a run, and the name of the report that this command has written."""
    facts = {"run_id": result.run_id, "source": result.source, "out": result.out, **result.totals()}
    facts["report"] = report
    if result.before is not None:
        facts["retried"] = result.before
    if result.completion is not None:
        facts["completed"] = asdict(result.completion)
    current_result().emit(facts)
    if json_log.is_on():
        summary = result.summary
        text = f"The run is complete: {pluralized(summary.success, 'image')} saved, {summary.failed:,} failed"
        json_log.write("info", text, event="complete", **facts)
    if not current_result().as_json:
        from producer.cli import render

        show(render.render_run(result, report))


@contextmanager
def _hold_lock(store: Store, broker: str | None, command: str) -> Iterator[None]:
    """Hold the lock of an output folder for the command of this name."""
    from producer.output import lock

    with lock.hold(store, checked_broker_url(broker), command):
        yield
