"""`--incremental extend` compares only the options on the command line.

The command ends with an error before anything starts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli.main import cli
from producer.output.run_file import PlanState, State
from tasks.errors import UsageError
from tasks.storage.local_store import LocalStore
from tests.runs import make_run


@pytest.mark.parametrize(
    ("mode", "options", "why"),
    [
        ("extend", ["--retries", "7", "--url-col", "url"], "these differ: --retries"),
        ("extend", ["--resize=keep_ratio", "--header", "Cookie: secret"], "these differ: --header, --resize"),
        ("skip", [], "it is a run of "),
    ],
)
def test_refuses_other_options(tmp_path: Path, mode: str, options: list[str], why: str) -> None:
    """If a given option differs from the run's option, the error names the option.

    The default value of an omitted option is not compared.
    """
    source = tmp_path / "list.csv"
    (tmp_path / "out").mkdir()
    store = LocalStore(tmp_path / "out")
    # The run's shard size differs from the default.
    make_run(tmp_path / "list.txt", store, 5, 2, State.COMPLETE, PlanState.COMPLETE)
    source.write_bytes(b"url\nhttp://b.example/\n")
    record = store.read("run.json")
    arguments = ["run", str(source), "--out", str(store.root), "--incremental", mode, *options]
    error = CliRunner().invoke(cli, arguments).exception
    assert isinstance(error, UsageError)
    assert why in error.why
    assert store.read("run.json") == record
