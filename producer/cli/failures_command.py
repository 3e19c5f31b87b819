"""The command that lists the failed images of a run."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click
import cloup
import orjson

from config.locations import Location
from producer.cli.console import print_note, show
from producer.cli.examples import epilog
from producer.cli.parameter_types import OutputLocation
from producer.cli.parameters import REASON_HELP
from producer.formatting import pluralized
from tasks.model import Reason

if TYPE_CHECKING:
    import pyarrow as pa

    from producer.output.failures import FailedImages
    from producer.output.run_file import RunFile
    from tasks.storage.store import Store


class FailureFormat(StrEnum):
    """The format of a list of failed images."""

    CSV = "csv"
    JSONL = "jsonl"
    URLS = "urls"


@cloup.command(
    short_help="Show which images of a run failed, and why.",
    epilog=epilog(
        {
            "See why images failed": "producer failures images",
            "Save a table of the failures": "producer failures images --format csv > failures.csv",
            "List the URLs that timed out": "producer failures images --reason timeout --format urls > again.txt",
        },
        REASON_HELP,
    ),
)
@click.argument("out", type=OutputLocation())
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="REASON",
    type=click.Choice([reason.value for reason in Reason]),
    help="Only images that failed for this reason. Repeatable.  [default: all reasons]",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice([kind.value for kind in FailureFormat]),
    help="Print all failures for other programs. csv: a table. jsonl: a JSON object on each line, as in "
    "OUT/failures.jsonl. urls: a URL on each line, for `producer run`.  [default: a summary with examples]",
)
def failures(out: Location, reasons: tuple[str, ...], output_format: str | None) -> None:
    """Show which images of the run in OUT failed, and why.

    The failures come from the manifests. If the run is not complete, they are those of its finished shards. In a file
    or a pipe, URLs are printed as in the list, including any passwords. On a terminal, passwords are masked.
    """
    from producer.output.failures import find_failed
    from producer.output.folder import existing_run
    from producer.output.run_file import RunFile

    store = existing_run(out)
    record = RunFile.load_usable(store)
    found = find_failed(record, store)
    _note_unfinished(record, store, found)
    if output_format is None:
        from producer.cli.render_failures import render_failures, summarise_failures

        show(render_failures(summarise_failures(found.rows(reasons)), store, reasons))
        return
    _print(_lines(found, reasons, FailureFormat(output_format)))


def _note_unfinished(record: RunFile, store: Store, found: FailedImages) -> None:
    from producer.output.run_file import State, resume_command

    if record.state is not State.COMPLETE:
        shards = pluralized(len(found.shards), "finished shard")
        text = f"The run is not complete, so this covers only its {shards}. To complete it: {resume_command(store)}"
        print_note(text, quiet=False)


def _lines(found: FailedImages, reasons: Iterable[str], kind: FailureFormat) -> Iterator[bytes]:
    """Yield the failures as lines in UTF-8."""
    from producer.output.failures import json_lines

    tables = found.rows(list(reasons))
    match kind:
        case FailureFormat.JSONL:
            for table in tables:
                yield from json_lines(table)
        case FailureFormat.CSV:
            yield _csv_line(found.columns)
            for table in tables:
                for line in json_lines(table):
                    yield _csv_line(map(_csv_value, orjson.loads(line).values()))
        case FailureFormat.URLS:
            yield from _url_lines(tables)


def _csv_line(values: Iterable[Any]) -> bytes:
    text = io.StringIO()
    # The writer quotes a CR or LF in a value only if its line terminator has this character.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


def _csv_value(value: Any) -> Any:
    """Return a value for a table. A list or an object stays JSON."""
    return orjson.dumps(value).decode() if isinstance(value, (list, dict)) else value


def _url_lines(tables: Iterable[pa.Table]) -> Iterator[bytes]:
    from producer.sources.text import format_line

    left_out = 0
    for table in tables:
        for url in map(str, table["url"].to_pylist()):
            line = format_line(url)
            if line is None:
                left_out += 1
            else:
                yield f"{line}\n".encode()
    if left_out:
        images = pluralized(left_out, "failed image")
        print_note(f"{images} left out, because of an invalid URL. --format csv lists them too.", quiet=False)


def _print(lines: Iterable[bytes]) -> None:
    """Write lines to standard output. A terminal shows no secrets, and gets no control characters."""
    from producer.cli.render import sanitized

    if _is_terminal():
        for line in lines:
            click.echo(sanitized(line.decode()))
        return
    output = sys.stdout.buffer
    for line in lines:
        output.write(line)
    output.flush()


def _is_terminal() -> bool:
    return sys.stdout.isatty()
