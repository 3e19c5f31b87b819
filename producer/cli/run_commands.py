"""The commands that start, continue and cancel a run."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from producer.cli.console import create_console, print_note, show
from producer.cli.fleets import check_insecure, checked_broker_url, find_broker_url, get_worker_pool
from producer.cli.json_result import current_result
from producer.cli.parameters import (
    DURATION_HELP,
    SIZE_HELP,
    Folder,
    UrlList,
    broker_option,
    convert_run_options,
    fetch_options,
    fleet_options,
    flower_option,
    json_option,
    refuse_empty,
    run_options,
)
from producer.cli.signals import CANCEL_SIGNAL, END_SIGNALS, raise_interrupted
from tasks.errors import WORTH_RETRYING
from tasks.model import Reason

if TYPE_CHECKING:
    from producer.cli.progress_display import Display
    from producer.dispatch.dispatcher import Progress
    from producer.output.lock import LockHolder
    from producer.runs.run import Run, RunResult, WorkerPool
    from tasks.storage.store import Store


@click.command(epilog=f"{DURATION_HELP} {SIZE_HELP}")
@click.argument("source", type=UrlList())
@click.option(
    "--out",
    required=True,
    type=Folder(),
    help="Folder for images, manifests and run.json.",
)
@click.option(
    "--refresh-from",
    "refresh_from",
    metavar="OLD",
    type=Folder(),
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

    frozen = convert_run_options(options)
    if find_broker_url(broker) is None:
        check_insecure(frozen)
    if refresh_from is not None:
        from producer.planning.previous_run import PreviousRun

        frozen = replace(frozen, previous_run=str(PreviousRun(refresh_from, out, frozen.fetch).folder))
    requests = url_list.nonempty(url_list.read(source), source)
    with (
        new_run_folder(out, checked_broker_url(broker)) as store,
        get_worker_pool(broker, options, [store.root], as_json, previous_run=frozen.previous_run) as pool,
    ):
        from producer.runs.run import Run

        with Run.begin(requests, source, store, frozen) as fresh:
            finished = _execute_run(fresh, pool, out, as_json)
    _show_result(finished, as_json)


@click.command()
@click.argument("out", type=Folder())
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


@click.command()
@click.argument("out", type=Folder())
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


@click.command()
@click.argument("out", type=Folder())
@broker_option
def cancel(out: Path, broker: str | None) -> None:
    """Cancel the run in OUT and drop its queued tasks. Finished images stay, and the run can be resumed."""
    from producer.output.folder import existing_run

    refuse_empty(broker)
    store = existing_run(out)
    from producer.runs.run import cancel as ended

    click.echo(ended(store, broker, _signal_cancel), err=True)


def _signal_cancel(holder: LockHolder) -> bool:
    """Signal a producer on this host to cancel its run. Return False for a producer on another host."""
    if holder.host != socket.gethostname():
        return False
    with suppress(ProcessLookupError):
        os.kill(holder.pid, CANCEL_SIGNAL)
    return True


def _continue_run(
    run: Run, nothing: str, out: Path, broker: str | None, as_json: bool, options: dict[str, Any]
) -> None:
    """Continue an earlier run to its end, if there is anything to do."""
    if run.is_done:
        print_note(nothing, as_json)
        _show_result(run.summary(), as_json)
        return
    if run.abandoned:
        print_note(
            "The previous producer died without recording why (killed, or disk full). Continuing the run.",
            quiet=False,
        )
    _note_broker_change(run.broker, broker)
    current_result().set_run(run, out)
    with run, get_worker_pool(broker, options, [out.resolve()], as_json, previous_run=run.previous_run) as pool:
        finished = _execute_run(run, pool, out, as_json)
    _show_result(finished, as_json)


def _note_broker_change(before: str | None, broker: str | None) -> None:
    """Print a note if a run continues at another broker than before, or with a local fleet."""
    from tasks.redaction import redacted

    url = find_broker_url(broker)
    now = None if url is None else redacted(url)
    if before is not None and now != before:
        place = "with a local fleet here" if now is None else f"at {now}"
        print_note(
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
            signal.signal(number, raise_interrupted)
        # The display announces it, because the interrupted code may be printing.
        run.finish()

    current_result().set_run(run, out)
    handlers = {number: signal.getsignal(number) for number in END_SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, ask)
    try:
        with Display(create_console(sys.stderr), quiet=as_json) as display:
            return run.execute(pool, partial(_show_run, display))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _show_result(result: RunResult, as_json: bool) -> None:
    if as_json:
        facts = {"run_id": result.run_id, "source": result.source, "out": str(result.out), **result.totals()}
        if result.before is not None:
            facts["retried"] = result.before
        if result.completion is not None:
            facts["completed"] = asdict(result.completion)
        current_result().emit(facts)
        return
    from producer.cli import render

    show(render.render_run(result))


@contextmanager
def _hold_lock(store: Store, broker: str | None, command: str) -> Iterator[None]:
    """Hold the lock of an output folder for a command with this name."""
    from producer.output import lock

    with lock.hold(store, checked_broker_url(broker), command):
        yield
