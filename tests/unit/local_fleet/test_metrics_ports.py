"""The workers of a local fleet get ports for their metrics before anything starts."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from producer.local_fleet import fleet
from producer.local_fleet.fleet import Fleet, FleetSize
from tasks.errors import UsageError
from tests.metrics import free_ports


def ports(monkeypatch: pytest.MonkeyPatch, first: int | None, address: str = "127.0.0.1") -> list[int | None]:
    """Return the ports of a fleet of two workers, from the first port on."""
    chosen = SimpleNamespace(metrics_port=first, metrics_address=address)
    monkeypatch.setattr(fleet, "settings", lambda: chosen)
    return list(Fleet(FleetSize(2), ())._metrics_ports)


def test_each_worker_has_its_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers use consecutive ports. Without the setting, there are no metrics."""
    assert ports(monkeypatch, None) == [None, None]
    first = free_ports(2)
    assert ports(monkeypatch, first) == [first, first + 1]


def test_taken_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If any worker's port is taken, no fleet starts, and the error names the port and the setting."""
    first = free_ports(2)
    with socket.create_server(("127.0.0.1", first + 1)), pytest.raises(UsageError, match=f"from {first} on") as error:
        ports(monkeypatch, first)
    assert error.value.why == f"127.0.0.1, port {first + 1}: Address already in use"
    assert "IMAGEFLEET_METRICS_PORT" in error.value.hint


@pytest.mark.parametrize(
    ("first", "address", "why"),
    [(65_535, "127.0.0.1", "port 65536: the number must be from 1 to"), (9750, "192.0.2.1", "192.0.2.1, port 9750: ")],
)
def test_impossible_port_is_refused(monkeypatch: pytest.MonkeyPatch, first: int, address: str, why: str) -> None:
    """A port above the greatest one, and an address of another machine, are refused."""
    with pytest.raises(UsageError) as error:
        ports(monkeypatch, first, address)
    assert why in error.value.why
