"""`producer failures` shows which images failed and why, for people and for other programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from producer.cli.main import cli
from producer.output.failures import COLUMNS, write
from producer.output.run_file import FAILURES_NAME, RunFile, State
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.model import Reason
from tasks.storage.local_store import LocalStore
from tests.unit.conftest import success
from tests.unit.output.test_failures import HOSTILE, failed, make_run

URLS = ["http://a.example/ok", "http://b.example/gone.jpg?token=secret", HOSTILE, "not a url"]


@pytest.fixture
def record(store: LocalStore) -> RunFile:
    """Make a run with a saved image, two images that were not found, and one with an invalid URL."""
    outcomes = [success(0), failed("00000001")], [failed("00001000"), failed("00001001", Reason.INVALID_URL, None)]
    return make_run(store, *outcomes, urls=URLS)


def invoke(store: LocalStore, *options: str) -> Result:
    """Call the command for the run in a folder."""
    result = CliRunner().invoke(cli, ["failures", str(store.root), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_sums_up_the_failures(record: RunFile, store: LocalStore) -> None:
    """Without --format, the command shows a row for each cause, the first images, and the commands for the next step.

    Secrets are masked, and control characters are replaced.
    """
    shown = invoke(store).stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["2", "http_4xx", "404", "no", "the", "server", "said", "404"] in rows
    assert ["1", "invalid_url", "no", "the", "server", "said", "None"] in rows
    assert ["00000001", "http_4xx", "http://b.example/gone.jpg?token=***"] in rows
    assert "<script>" in shown
    assert not {"secret", "\x1b", "\u202e"} & set(shown)
    assert "secret" not in shown
    assert f"producer failures {store.root} --format csv" in shown
    assert f"producer retry {store.root} --all" in shown


def test_names_the_failures_worth_a_retry(store: LocalStore) -> None:
    """If some images may succeed now, the plain `retry` is the first suggestion. With --reason, only they are meant."""
    make_run(store, [failed("00000000", Reason.TIMEOUT, None), failed("00000001")])
    shown = invoke(store).stdout
    assert f"Retry the 1 image that may succeed now:\n  producer retry {store.root}\n" in shown
    shown = invoke(store, "--reason", "http_4xx").stdout
    assert "timeout" not in shown
    assert f"Retry all 1:\n  producer retry {store.root} --reason http_4xx\n" in shown


def test_shows_only_the_first_examples(store: LocalStore) -> None:
    """The summary of many failures is short."""
    make_run(store, *[[failed(f"{shard:05}000"), failed(f"{shard:05}001")] for shard in range(30)])
    shown = invoke(store).stdout
    assert "The first 10 of 60:" in shown
    assert "See all:\n" in shown
    assert shown.count("http://a.example/") == 10


def test_shows_all_of_a_few_failures(store: LocalStore) -> None:
    """If the summary has all failures, the table is offered for its columns."""
    make_run(store, [failed("00000000")])
    shown = invoke(store).stdout
    assert "All of them:" in shown
    assert "See all columns:\n" in shown


def test_nothing_failed(store: LocalStore) -> None:
    """Without failures, the command says so. A table has only its header."""
    make_run(store, [success(0)])
    assert invoke(store).stdout == "No image failed.\n"
    assert invoke(store, "--reason", "dns").stdout == "No image failed for these reasons.\n"
    assert invoke(store, "--format", "jsonl").stdout == ""
    assert invoke(store, "--format", "csv").stdout == ",".join([*COLUMNS, "caption", "day"]) + "\n"


def test_prints_the_lines_of_the_file(record: RunFile, store: LocalStore) -> None:
    """--format jsonl prints exactly the lines of the file failures.jsonl."""
    write(record, store, 2)
    assert invoke(store, "--format", "jsonl").stdout_bytes == store.read(FAILURES_NAME)


def test_prints_a_table(record: RunFile, store: LocalStore) -> None:
    """--format csv prints the same values as a table. URLs are unchanged, also if they hold quotes and line ends."""
    rows = list(csv.DictReader(io.StringIO(invoke(store, "--format", "csv").stdout_bytes.decode(), newline="")))
    write(record, store, 2)
    lines = [json.loads(line) for line in store.read(FAILURES_NAME).splitlines()]
    assert rows == [{name: "" if value is None else str(value) for name, value in line.items()} for line in lines]
    assert [row["url"] for row in rows] == URLS[1:]


def test_line_ends_do_not_split_the_rows_of_a_table(store: LocalStore) -> None:
    """A value with any line end stays one value. Each row ends with a line feed."""
    urls = ["http://a.example/a\rhttp://b.example/", "http://a.example/b\r\n", "=1+1\n,2", '"\r"']
    keys = ["00000000", "00000001", "00001000", "00001001"]
    make_run(store, [failed(keys[0]), failed(keys[1])], [failed(keys[2]), failed(keys[3])], urls=urls)
    table = invoke(store, "--format", "csv").stdout_bytes.decode()
    found = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [(row["key"], row["url"]) for row in found] == list(zip(keys, urls, strict=True))
    assert table.endswith(",picture 1,2026-01-01\n")


def test_prints_a_list_for_another_run(record: RunFile, store: LocalStore, tmp_path: Path) -> None:
    """--format urls prints a list that a run can read. URLs that are not valid are left out, and counted."""
    result = invoke(store, "--format", "urls")
    (tmp_path / "again.txt").write_bytes(result.stdout_bytes)
    assert [request.url for request in url_list.read(str(tmp_path / "again.txt"))] == [
        URLS[1],
        HOSTILE.replace("\n", "").replace("\x1b", "%1B"),
    ]
    assert result.stderr == "1 failed image left out, because of an invalid URL. --format csv lists them too.\n"


def test_file_is_a_list_with_captions(record: RunFile, store: LocalStore) -> None:
    """A run can read failures.jsonl as its list, and keep the columns of the first list."""
    write(record, store, 2)
    requests = list(url_list.read(str(store.root / FAILURES_NAME), SourceOptions(caption_col="caption")))
    assert [request.url for request in requests] == URLS[1:]
    assert [request.columns["caption"] for request in requests] == ["picture 1", "picture 0", "picture 1"]


def test_masks_secrets_on_a_terminal(record: RunFile, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, each format masks secrets, and prints no control characters."""
    monkeypatch.setattr("producer.cli.failures_command._is_terminal", lambda: True)
    for kind in ("csv", "jsonl", "urls"):
        shown = invoke(store, "--format", kind).stdout
        assert "secret" not in shown
        assert "\x1b" not in shown
        assert "gone.jpg" in shown


def test_says_that_the_run_is_incomplete(store: LocalStore) -> None:
    """The failures of an incomplete run are those of its finished shards. A note says so."""
    make_run(store, [failed("00000000")], state=State.INTERRUPTED)
    result = invoke(store, "--format", "urls")
    assert result.stdout == "http://a.example/0\n"
    assert result.stderr == (
        "The run is not complete, so this covers only its 1 finished shard. "
        f"To complete it: producer resume {store.root}\n"
    )
