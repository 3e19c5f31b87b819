"""A command with metrics waits for the last read of its metrics, but only if something reads them."""

from __future__ import annotations

import socket
import threading

import pytest

from producer.cli import metrics as cli_metrics
from producer.cli.metrics import serve_metrics
from producer.output.summary import Summary
from tasks.errors import UsageError
from tests.metrics import free_ports, images
from tests.waiting import wait_for

_SUMMARY = Summary({"success": 3}, {}, 9, 1)


@pytest.fixture
def port() -> int:
    """Return a free port."""
    return free_ports(1)


def test_nothing_is_served_without_a_port() -> None:
    """Without the option, there are no metrics to update."""
    with serve_metrics(None, quiet=True) as metrics:
        assert metrics is None


def test_waits_for_the_last_read(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """If the metrics were read during the run, the command ends when the totals have been read."""
    ended = threading.Event()

    def run() -> None:
        with serve_metrics(port, quiet=False) as metrics:
            assert metrics is not None
            # An empty answer would mean that nothing is served.
            assert images(port, "imagefleet_run_images") == {}
            metrics.finish(_SUMMARY)
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    shown = ""
    while "Waiting until" not in shown:
        shown += capsys.readouterr().err
    assert not ended.is_set()
    assert images(port, "imagefleet_run_images") == {"": 3}
    wait_for(ended.is_set)
    assert images(port, "imagefleet_run_images") == {}


@pytest.fixture
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that waits for a read."""
    monkeypatch.setattr(cli_metrics, "print_note", lambda *_: pytest.fail("it waits"))


@pytest.mark.usefixtures("_no_wait")
def test_does_not_wait_for_nobody(port: int) -> None:
    """If nothing has read the metrics, or the run is not complete, the command ends at once."""
    with serve_metrics(port, quiet=False) as metrics:
        assert metrics is not None
        metrics.finish(_SUMMARY)
    with serve_metrics(port, quiet=False):
        images(port)


def test_taken_port_is_explained() -> None:
    """The error of a taken port names the option to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1, port {port}") as error, serve_metrics(port, quiet=True):
            pass
    assert error.value.why == "Address already in use"
    assert "--metrics-port" in error.value.hint
