"""The command line: its commands, its exit status, and its reports of errors and interruptions."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from functools import partial
from typing import Any, NoReturn

import click
import cloup

from config import VERSION, SettingsError, streams
from producer.cli import json_log
from producer.cli.command_group import CommandGroup
from producer.cli.compare_commands import compare, demo, serve
from producer.cli.completion_command import completion
from producer.cli.console import print_note, show
from producer.cli.examples import epilog
from producer.cli.failures_command import failures
from producer.cli.fleet_commands import doctor, fleet
from producer.cli.gallery_command import gallery
from producer.cli.hosts_command import hosts
from producer.cli.json_result import JsonResult
from producer.cli.report_command import report
from producer.cli.run_commands import cancel, resume, retry, run
from producer.cli.signals import (
    CANCEL_SIGNAL,
    END_SIGNALS,
    CommandCancelled,
    raise_cancelled,
    raise_dropped_interrupt,
    raise_interrupted,
    set_handler,
)
from producer.cli.status_command import status
from tasks import file_descriptors, runtime_tuning
from tasks.errors import CommandError, RunInterruptedError, StorageError, UsageError

_EXIT_INTERRUPTED = 130


@cloup.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=epilog(
        {
            "Try it without a network": "producer demo",
            "Download a list": "producer run urls.txt --out images",
            "See what failed, and why": "producer failures images",
        },
        "`producer COMMAND --help` shows the options of a command.",
    ),
)
@click.version_option(VERSION, prog_name="imagefleet")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Download lists of image URLs with a fleet of Celery workers."""


#: The commands, by the sections of the help. To add a command, add it here.
_SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Download a list": (run, resume, retry, cancel),
    "Look at a run": (status, report, gallery, failures),
    "Workers and hosts": (fleet, hosts, doctor),
    "Try it out": (demo, compare, serve),
    "Shell": (completion,),
}
for _title, _commands in _SECTIONS.items():
    cli.section(_title, *_commands)


def main() -> NoReturn:
    """Run the command line, and exit with its status."""
    streams.set_up()
    runtime_tuning.reduce_garbage_collection()
    runtime_tuning.return_large_blocks()
    # Processes started by the command inherit this limit of open files.
    file_descriptors.raise_limit()
    # SIGTERM ends a command as Ctrl-C does: all its child processes are stopped.
    set_handler(END_SIGNALS, raise_interrupted)
    signal.signal(CANCEL_SIGNAL, raise_cancelled)
    sys.unraisablehook = partial(raise_dropped_interrupt, sys.unraisablehook)
    result = JsonResult()
    _exit(
        _run_command_line(result, debug="--debug" in sys.argv[1:2]), is_comparison=result.comparison_folder is not None
    )


def _exit(status: Any, is_comparison: bool) -> NoReturn:
    """Exit with a status. After the interruption of a comparison, don't wait for its threads.

    If a signal arrives during the exit, the process ends sooner, but with the same status. At the very end, Python
    resets the signal handlers. After that, Ctrl-C would kill the process, and the exit status would be lost. So the
    signals are ignored shortly before.
    """
    atexit.register(set_handler, (*END_SIGNALS, CANCEL_SIGNAL), signal.SIG_IGN)
    set_handler((*END_SIGNALS, CANCEL_SIGNAL), lambda *_: os._exit(status or 0))
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
        usage_error = _usage_error(error)
        result.emit_error(usage_error)
        if json_log.is_on():
            _log_error(usage_error)
        else:
            error.show()
        return error.exit_code
    except (KeyboardInterrupt, RunInterruptedError, click.Abort) as error:
        _report_interruption(result, error)
        return _EXIT_INTERRUPTED
    except Exception as error:
        command_error = _command_error(error)
        result.emit_error(command_error)
        if debug:
            raise
        _show_error(command_error)
        return command_error.exit_code


def _show_error(error: CommandError) -> None:
    from producer.cli import render

    if json_log.is_on():
        _log_error(error)
    else:
        show(render.render_error(error), sys.stderr)


def _log_error(error: CommandError) -> None:
    facts = {"why": error.why, "todo": error.hint, "exit_code": error.exit_code}
    json_log.write("error", error.what, event="error", **facts)


def _report_interruption(result: JsonResult, error: BaseException) -> None:
    """Report why the command ended early, and how to resume its run."""
    # The report takes milliseconds. Ignore another Ctrl-C, so that the user still gets the command to resume.
    set_handler(END_SIGNALS, lambda *_: None)
    # Click replaces an interruption by an Abort.
    cancelled = isinstance(error.__cause__ or error, CommandCancelled) or (
        isinstance(error, RunInterruptedError) and error.cancelled
    )
    facts = result.run
    result.emit({"interrupted": True, "cancelled": cancelled, **facts})
    what = "Cancelled by another command." if cancelled else "Interrupted."
    if facts:
        print_note(f"{what} Saved images and manifests are kept.", quiet=False)
        print_note(f"Resume with: {facts['resume']}", quiet=False)
    elif result.comparison_folder is not None:
        text = f"{what} Saved images are kept in {result.comparison_folder}. A comparison can't be resumed."
        print_note(text, quiet=False)
    else:
        print_note(what, quiet=False)


def _command_error(error: Exception) -> CommandError:
    """Convert the exception that ended a command to an error for the user."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, SettingsError):
        hint = "Correct the variable or unset it; see docs/settings.md."
        return UsageError("A setting is invalid", str(error), hint)
    if isinstance(error, streams.OutputError):
        hint = (
            "Free disk space, or write the output to another place. If a run was started, its files are not affected."
        )
        return CommandError("The output of the command can't be written", str(error.strerror), hint)
    if isinstance(error, StorageError):
        hint = "Check the disk or the object store, and its permissions. If a run was started, resume it."
        return CommandError("The output folder can't be used", str(error), hint)
    return CommandError(
        "Unexpected error",
        f"{type(error).__name__}: {error}",
        "Run the command again as `producer --debug …`, and report the output.",
    )


def _usage_error(error: click.ClickException) -> CommandError:
    """Return a usage error found by Click."""
    context = getattr(error, "ctx", None)
    command = "producer" if context is None else context.command_path
    return UsageError("The command line is invalid", error.format_message(), f"See `{command} --help`.")
