"""The metrics are served at one address, to clients that may be slow or silent."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from tasks.metrics.server import MetricsServer
from tests.integration.processes import free_port
from tests.waiting import wait_for


@pytest.fixture
def server() -> Iterator[tuple[MetricsServer, int]]:
    """Serve one counter; give the server and its port."""
    registry, port = CollectorRegistry(), free_port()
    Counter("images", "Images.", registry=registry).inc(3)
    metrics = MetricsServer(registry, "127.0.0.1", port)
    yield metrics, port
    metrics.close()


def get(port: int) -> str:
    """Return the metrics at a port of loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return str(response.read().decode())


def test_serves_the_metrics(server: tuple[MetricsServer, int]) -> None:
    """A client gets the present values, while another client is connected and sends nothing."""
    metrics, port = server
    with socket.create_connection(("127.0.0.1", port)):
        assert not metrics.has_been_read
        assert "images_total 3.0\n" in get(port)


def test_knows_when_the_metrics_have_been_read(server: tuple[MetricsServer, int]) -> None:
    """A connection without a request is no read. A response counts when it has been sent."""
    metrics, port = server
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.shutdown(socket.SHUT_WR)
        assert silent.recv(1) == b""
    assert not metrics.has_been_read
    get(port)
    wait_for(lambda: metrics.has_been_read)
    assert not metrics.wait_for_read(0)


def test_frees_its_port_when_closed() -> None:
    """A taken port is an error, and a closed server's port can be used again."""
    port = free_port()
    first = MetricsServer(CollectorRegistry(), "127.0.0.1", port)
    with pytest.raises(OSError, match="in use"):
        MetricsServer(CollectorRegistry(), "127.0.0.1", port)
    first.close()
    MetricsServer(CollectorRegistry(), "127.0.0.1", port).close()
