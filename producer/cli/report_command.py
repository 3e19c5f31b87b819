"""The command that writes the report of a run, and the report at the end of other commands."""

from __future__ import annotations

import shlex

import click
import cloup

from config.locations import Location
from producer.cli.console import print_note
from producer.cli.examples import epilog
from producer.cli.json_result import current_result
from producer.cli.parameter_types import OutputLocation
from producer.cli.parameters import json_option
from tasks.errors import CommandError


@cloup.command(
    short_help="Write the report of a run as one HTML page.",
    epilog=epilog({"Write the report of a run": "producer report images"}),
)
@click.argument("out", type=OutputLocation())
@json_option
def report(out: Location, as_json: bool) -> None:
    """Write the report of the run in OUT to the file report.html there: one page that needs no network.

    Commands that complete a run write it too. If the run is not complete, the page covers its finished shards.
    """
    from producer.output.folder import existing_run
    from producer.report.writer import write_report

    store = existing_run(out)
    written = write_report(store)
    current_result().emit({"report": written})
    if not as_json:
        click.echo(f"The report is in {written}")


def write_after_run(out: Location) -> str | None:
    """Write the report of a complete run, and return its name; None if reports are off, or if it can't be written.

    The run is complete, so the command does not fail because of its report.
    """
    from config.settings import settings

    if not settings().report:
        return None
    from producer.output.folder import open_output
    from producer.report.writer import write_report

    hint = f"To write it, run `producer report {shlex.quote(str(out))}`."
    try:
        return write_report(open_output(out))
    except KeyboardInterrupt:
        print_note(f"The run is complete, but its report was interrupted. {hint}", quiet=False)
    except CommandError as error:
        print_note(
            f"The run is complete, but its report was not written: {error.what}: {error.why}. {hint}", quiet=False
        )
    except Exception as error:  # noqa: BLE001  # see above
        why = f"{type(error).__name__}: {error}"
        print_note(f"The run is complete, but its report was not written: {why}. {hint}", quiet=False)
    return None
