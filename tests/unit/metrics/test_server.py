"""The metrics are served at one address, to clients that may be slow or silent."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

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


class SlowCollector(Collector):
    """A collector that says when it has begun, and waits before it yields nothing."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def collect(self) -> Iterator[Metric]:
        """Wait until the test goes on."""
        self.begun.set()
        assert self.go_on.wait(10)
        return iter(())


def test_read_of_earlier_values_is_not_waited_for() -> None:
    """A response that was begun before the wait may have earlier values, so the wait continues when it is sent."""
    registry, slow = CollectorRegistry(), SlowCollector()
    server = MetricsServer(registry, "127.0.0.1", port := free_port())
    registry.register(slow)
    before = server._sent
    with ThreadPoolExecutor() as pool:
        try:
            early = pool.submit(get, port)
            assert slow.begun.wait(10)
            waiting = pool.submit(server.wait_for_read, 10)
            wait_for(lambda: server._sent is not before)
            slow.go_on.set()
            early.result()
            wait_for(lambda: server.has_been_read)
            assert not server._sent.is_set()
            get(port)
            assert waiting.result()
        finally:
            slow.go_on.set()
            server.close()


def test_starts_without_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not look up the name of its address, which may take many seconds if the name server is dead."""
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("a name was looked up"))
    MetricsServer(CollectorRegistry(), "127.0.0.1", free_port()).close()


def test_frees_its_port_when_closed() -> None:
    """A taken port is an error, and a closed server's port can be used again."""
    port = free_port()
    first = MetricsServer(CollectorRegistry(), "127.0.0.1", port)
    with pytest.raises(OSError, match="in use"):
        MetricsServer(CollectorRegistry(), "127.0.0.1", port)
    first.close()
    MetricsServer(CollectorRegistry(), "127.0.0.1", port).close()
