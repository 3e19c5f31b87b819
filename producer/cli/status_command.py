"""The command that shows the status of a run, once or until the run ends."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click
import cloup

from config import streams
from config.locations import Location
from producer.cli.console import create_console, show
from producer.cli.examples import epilog
from producer.cli.json_result import current_result
from producer.cli.parameter_types import OutputLocation
from producer.cli.parameters import broker_option, json_option

if TYPE_CHECKING:
    from producer.runs.status import RunStatus, StatusReader

#: Seconds between two reads of a run's progress in Redis, and of a run's files.
_LIVE_INTERVAL_SECONDS, _FILES_INTERVAL_SECONDS = 1.0, 5.0


@cloup.command(
    short_help="Show how far a run is, and what is wrong.",
    epilog=epilog(
        {
            "Show how far a run is": "producer status images",
            "Follow a run that was started elsewhere": "producer status images --watch",
        }
    ),
)
@click.argument("out", type=OutputLocation())
@click.option(
    "--watch",
    is_flag=True,
    help="Show the status until the run ends or you press Ctrl-C. Ctrl-C does not end the run. With --json, print an "
    "object each time.",
)
@broker_option
@json_option
def status(out: Location, watch: bool, broker: str | None, as_json: bool) -> None:
    """Show how far the run in OUT is, how fast it is, and what is wrong.

    While a producer works on the run, the numbers are those of its progress display. When the run is over, they come
    from its files. The command changes nothing and needs no workers.
    """
    from producer.output.folder import existing_run
    from producer.runs.status import StatusReader

    with closing(StatusReader(existing_run(out), broker)) as reader:
        if watch:
            _watch(reader, as_json)
        found = reader.read()
    if as_json:
        current_result().emit(_facts(found))
        return
    from producer.cli.render_status import render_status

    show(render_status(found))


def _watch(reader: StatusReader, as_json: bool) -> None:
    """Show the status until the run is over, or until Ctrl-C."""
    from producer.cli.progress_display import Display
    from producer.cli.render_status import head_rows

    try:
        with Display(create_console(sys.stderr), as_json) as display:
            while (found := reader.read()).is_running:
                if as_json:
                    click.echo(json.dumps(_facts(found)))
                    if not streams.has_reader(sys.stdout):
                        return
                display.show(found.progress, head_rows(found))
                time.sleep(_LIVE_INTERVAL_SECONDS if found.live else _FILES_INTERVAL_SECONDS)
    except KeyboardInterrupt:
        # The last status is still shown.
        return


def _facts(found: RunStatus) -> dict[str, object]:
    from producer.cli.render import sanitized

    facts = found.to_json()
    return {**facts, "note": sanitized(found.progress.note)}
