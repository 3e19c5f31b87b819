"""Read metrics as Prometheus does."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import ExitStack

from tests.integration.processes import free_port


def read_metrics(port: int) -> dict[str, float]:
    """Return the value of each series that is served at a port of loopback; empty while nothing is served there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
    except OSError:
        return {}
    series = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in series}


def images(port: int, metric: str = "imagefleet_images_total") -> dict[str, float]:
    """Return the number of images for each reason, from a metric with status and reason. Saved images have none."""
    return {
        name.partition('reason="')[2].partition('"')[0]: value
        for name, value in read_metrics(port).items()
        if name.startswith(f"{metric}{{") and value
    }


def free_ports(count: int) -> int:
    """Return the first of some consecutive ports of loopback at which nothing listens."""
    while True:
        first = free_port()
        try:
            with ExitStack() as stack:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
        except (OSError, OverflowError):
            continue
        return first
