"""The workers of a command."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from producer.cli import fleets
from producer.cli.parameters import FleetParameters, fleet_options


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ([], ""),
        (["--workers", "2"], "--workers has no effect"),
        (["--concurrency", "16", "--flower"], "--concurrency and --flower have no effect"),
    ],
)
def test_options_of_a_local_fleet_are_noted_at_a_broker(given: list[str], note: str) -> None:
    """If a broker is given, the user's options for a local fleet are reported. Default values are not reported."""

    @click.command()
    @fleet_options
    def command(fleet: FleetParameters) -> None:
        fleets._note_unused_options("redis://:secret@a.example/0")

    ended = CliRunner().invoke(command, given)
    assert ended.exit_code == 0
    output = ended.output
    assert note in output
    assert ("redis://***@a.example/0" in output) == bool(note)
    assert "secret" not in output
