"""The doctor checks the settings, and shows all findings with a verdict."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from config.settings import Settings, settings
from producer.cli import render
from producer.doctor import diagnosis
from producer.doctor.diagnosis import Diagnosis
from producer.doctor.finding import Finding, Level

_OUT = "/data/out"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Set imagefleet's variables to these values, and remove all other variables of imagefleet."""

    def change(**variables: str) -> None:
        for name in Settings.model_fields:
            monkeypatch.delenv(f"IMAGEFLEET_{name.upper()}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"IMAGEFLEET_{name}", value)
        settings.cache_clear()

    yield change
    settings.cache_clear()


def test_settings(environment: Callable[..., None]) -> None:
    """Usable network settings are named. If there are no network settings, there is no finding."""
    environment(STORE_ROOTS="/data")
    assert diagnosis._network_setting_findings(local=True) == []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        environment(PROXY=f"http://me:word@127.0.0.1:{proxy.getsockname()[1]}", DENY_NETWORKS="10.0.0.0/8")
        (finding,) = diagnosis._network_setting_findings(local=True)
    assert (finding.level, finding.found) == (Level.OK, "IMAGEFLEET_DENY_NETWORKS, IMAGEFLEET_PROXY can be used")


def test_unusable_settings_are_named(environment: Callable[..., None]) -> None:
    """Every unusable variable is named, without a proxy's secrets.

    If the workers run elsewhere, an unusable variable is only a warning.
    """
    environment(PROXY="http://me:word@127.0.0.1:3", ALLOW_NETWORKS="foo/bar", CA_BUNDLE="/nope")
    for local, level in ((True, Level.BAD), (False, Level.WARN)):
        (finding,) = diagnosis._network_setting_findings(local)
        assert finding.level is level
        assert "IMAGEFLEET_ALLOW_NETWORKS: 'foo/bar' does not" in finding.found
        assert "IMAGEFLEET_CA_BUNDLE: /nope can't be used: No such file" in finding.found
        assert "IMAGEFLEET_PROXY: the proxy can't be reached: 127.0.0.1 port 3: Connection refused" in finding.found
        assert "word" not in finding.found
    environment(PROXY="me:word@127.0.0.1:3")
    (finding,) = diagnosis._network_setting_findings(local=True)
    assert finding.found.startswith("IMAGEFLEET_PROXY: it must be http://host:port, with user:password@ before")


@pytest.mark.parametrize(
    ("worst", "healthy", "end"),
    [(Level.OK, True, "No problems"), (Level.WARN, True, "Runs will work"), (Level.BAD, False, "Runs will fail")],
)
def test_diagnosis_is_shown(worst: Level, healthy: bool, end: str) -> None:
    """The table ends with the overall verdict, and text in brackets is shown unchanged."""
    findings = [Finding("broker", Level.OK, "it answers"), Finding("workers", worst, "[red]found[/red]", "do this")]
    diagnosis = Diagnosis("redis://***@here", _OUT, findings)
    assert diagnosis.healthy is healthy
    assert diagnosis.to_json()["findings"][1] == {
        "name": "workers",
        "level": worst.value,
        "found": "[red]found[/red]",
        "todo": "do this",
    }
    console = Console(width=160)
    with console.capture() as capture:
        console.print(render.render_diagnosis(diagnosis))
    shown = capture.get()
    assert "[red]found[/red]" in shown
    assert shown.strip().splitlines()[-1].startswith(end)
