"""`producer hosts` refuses options that contradict each other, before it looks for a fleet."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from producer.cli.main import cli


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--set", "a.example"], "--set needs --concurrency, --rate or both"),
        (["--concurrency", "2"], "--concurrency and --rate need --set HOST"),
        (["--rate", "2", "--lift", "a.example"], "--concurrency and --rate need --set HOST"),
        (["--set", "a.example", "--rate", "2", "--lift", "a.example"], "--set and --lift can't be used together"),
        (["--set", "a.example", "--rate", "0"], "0 is not in the range x>0"),
        (["--set", "a.example", "--concurrency", "0"], "0 is not in the range"),
    ],
)
def test_contradicting_options_are_refused(arguments: list[str], why: str) -> None:
    """The usage error names the options."""
    ended = CliRunner().invoke(cli, ["hosts", *arguments])
    assert ended.exit_code == 2
    assert why in " ".join(ended.output.split())
