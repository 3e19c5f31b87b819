"""The JSON object that a command prints with `--json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.locations import Location, resolved
from producer.cli import json_log
from tasks.errors import CommandError

if TYPE_CHECKING:
    from producer.runs.run import Run


@dataclass(slots=True)
class JsonResult:
    """The result of a command with `--json`: one object on standard output, however the command ends."""

    #: Whether `--json` was given.
    as_json: bool = False
    #: The output folder of a comparison.
    comparison_folder: Path | None = None
    _run: tuple[str, Location] | None = None
    _emitted: bool = False

    def set_run(self, run: Run, out: Location) -> None:
        """Set the run that this command reports from now on."""
        self._run = run.id, resolved(out)
        json_log.set_run(run.id)

    @property
    def run(self) -> dict[str, str]:
        """The id and folder of the command's run, and the command to resume it; empty before there is a run."""
        if self._run is None:
            return {}
        from producer.output.run_file import resume_command
        from tasks.storage.locations import open_store

        run_id, out = self._run
        store = open_store(out)
        return {"run_id": run_id, "out": store.location, "resume": resume_command(store)}

    def emit(self, facts: dict[str, Any]) -> None:
        """Print an object, if `--json` was given and no object has been printed yet."""
        if self.as_json and not self._emitted:
            # Set this first. Otherwise, an interruption right after the printing would cause a second object to be
            # printed.
            self._emitted = True
            click.echo(json.dumps(facts))

    def emit_error(self, error: CommandError) -> None:
        """Print an error as an object, if `--json` was given and no object has been printed yet."""
        if self.as_json:
            from producer.cli.render import sanitized

            texts = {"what": sanitized(error.what), "why": sanitized(error.why), "todo": sanitized(error.hint)}
            self.emit({"error": {**texts, "exit_code": error.exit_code}, **self.run})


def current_result() -> JsonResult:
    """Return the JSON result of the running command."""
    return click.get_current_context().ensure_object(JsonResult)


def enable_json(context: click.Context, _: click.Parameter, wanted: bool) -> bool:
    """Record whether `--json` was given. The option calls this."""
    context.ensure_object(JsonResult).as_json = wanted
    return wanted
