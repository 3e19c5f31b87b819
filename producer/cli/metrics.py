"""Serve the metrics of a command that works on a run (`--metrics-port`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click
import cloup

from config import limits
from config.settings import settings
from producer.cli.console import print_note
from producer.cli.parameter_types import int_range
from tasks.errors import UsageError

if TYPE_CHECKING:
    from producer.runs.run_metrics import RunMetrics

#: The longest wait, in seconds, until the final numbers have been read.
_LAST_READ_SECONDS = 30.0

#: Adds the argument ``metrics_port``.
metrics_option = cloup.option_group(
    "Monitoring",
    click.option(
        "--metrics-port",
        type=int_range(limits.PORT),
        metavar="PORT",
        help="Serve the run's metrics for Prometheus at this port. If something reads the metrics during the run, the "
        f"command ends when the final numbers have been read, at most {_LAST_READ_SECONDS:.0f} s after the run.",
    ),
)


@contextmanager
def serve_metrics(port: int | None, quiet: bool) -> Iterator[RunMetrics | None]:
    """Serve the metrics of a run during the block; yield None without a port.

    Prometheus reads the metrics at intervals, so the numbers of its last read are older than the end of the run. If
    something has read the metrics and the run is complete, wait until they are read once more.

    Raises:
        UsageError: the metrics can't be served at this port.
    """
    if port is None:
        yield None
        return
    # Imported here, because only commands with metrics need these modules.
    from producer.runs.run_metrics import RunMetrics
    from tasks.metrics.prometheus import create_registry
    from tasks.metrics.server import MetricsServer

    address = str(settings().metrics_address)
    registry, metrics = create_registry(), RunMetrics()
    registry.register(metrics)
    try:
        server = MetricsServer(registry, address, port)
    except OSError as error:
        raise UsageError(
            f"The metrics can't be served at {address}, port {port}",
            error.strerror or str(error),
            "Choose another --metrics-port, or correct IMAGEFLEET_METRICS_ADDRESS.",
        ) from error
    try:
        yield metrics
        if metrics.is_finished and server.has_been_read:
            print_note("Waiting until the final metrics are read. Press Ctrl-C to end now.", quiet)
            with suppress(KeyboardInterrupt):
                server.wait_for_read(_LAST_READ_SECONDS)
    finally:
        server.close()
