"""The workers of a command, and the settings that they need."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from config.settings import settings
from producer.cli import fleets
from producer.cli.parameters import FleetParameters, fleet_options
from producer.output.run_file import RunConfig
from tasks.errors import UsageError
from tasks.model import FetchOptions


def test_insecure_run_needs_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the workers share this environment and would refuse the run, it is refused at once."""
    config = RunConfig(FetchOptions(insecure=True))
    with pytest.raises(UsageError, match="IMAGEFLEET_ALLOW_INSECURE_TLS is not set"):
        fleets.check_insecure(config)
    monkeypatch.setenv("IMAGEFLEET_ALLOW_INSECURE_TLS", "true")
    settings.cache_clear()
    fleets.check_insecure(config)


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ([], ""),
        (["--workers", "2"], "--workers has no effect"),
        (["--concurrency", "16", "--flower"], "--concurrency and --flower have no effect"),
    ],
)
def test_options_of_a_local_fleet_are_noted_at_a_broker(given: list[str], note: str) -> None:
    """At a broker, given options of a local fleet are reported; their defaults are not."""

    @click.command()
    @fleet_options
    def command(fleet: FleetParameters) -> None:
        fleets._note_unused_options("redis://:secret@a.example/0")

    output = CliRunner().invoke(command, given).output
    assert note in output
    assert ("redis://***@a.example/0" in output) == bool(note)
    assert "secret" not in output
