"""The command that writes the report of a run, and the report at the end of other commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import click
import cloup

from config.locations import Location
from producer.cli.console import print_note
from producer.cli.examples import epilog
from producer.cli.json_result import current_result
from producer.cli.parameter_types import OutputLocation
from producer.cli.parameters import json_option
from tasks.errors import CommandError

_Result = TypeVar("_Result")


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


def build_after_run(out: Location) -> Callable[[], str] | None:
    """Build the report of a complete run. Return the function that saves it; None if reports are off or can't be built.

    The run is complete, so the command does not fail because of its report.
    """
    from config.settings import settings

    if not settings().report:
        return None
    from producer.output.folder import open_output
    from producer.report.writer import build_page, save_page

    def build() -> Callable[[], str]:
        store = open_output(out)
        return partial(save_page, build_page(store), store)

    return _or_note(build, out)


def save_after_run(save: Callable[[], str] | None, out: Location) -> str | None:
    """Save the report with the function from `build_after_run`. Return its name; None if there is none."""
    return None if save is None else _or_note(save, out)


def _or_note(step: Callable[[], _Result], out: Location) -> _Result | None:
    """Return the result of a step towards the report. If the step fails, print a note and return None."""
    hint = f"To write it, run `producer report {shlex.quote(str(out))}`."
    try:
        return step()
    except KeyboardInterrupt:
        print_note(f"The run is complete, but its report was interrupted. {hint}", quiet=False)
    except CommandError as error:
        print_note(
            f"The run is complete, but its report was not written: {error.what}: {error.why}. {hint}", quiet=False
        )
    except Exception as error:  # noqa: BLE001  # the run is complete
        why = f"{type(error).__name__}: {error}"
        print_note(f"The run is complete, but its report was not written: {why}. {hint}", quiet=False)
    return None
