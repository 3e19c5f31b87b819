"""Get the workers of a command: a broker's workers, or a local fleet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from config.locations import Location, parse_location
from producer.cli.console import create_console, print_note, print_warning, show_waiting
from producer.cli.parameters import FleetParameters
from producer.formatting import pluralized
from producer.runs.preflight import find_broker_url

if TYPE_CHECKING:
    from producer.local_fleet.fleet import Fleet
    from producer.runs.worker_pool import WorkerPool

#: The options that only a local fleet has.
_FLEET_OPTIONS = ("workers", "concurrency", "flower")


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """The workers that a command needs: a broker's workers, or else a local fleet."""

    fleet: FleetParameters
    #: The URL of the broker as given on the command line.
    broker: str | None = None
    #: The folders for a local fleet to write to. The first is the output folder.
    roots: Sequence[Location] = ()
    #: Whether to show no progress.
    quiet: bool = False
    #: Addresses that a local fleet may fetch from, besides public addresses. None stands for the setting in the
    #: environment.
    allow_networks: Sequence[str] | None = None
    #: Whether a local fleet uses the proxy that its environment names.
    proxied: bool = True
    #: The folder of a previous run from which a local fleet reuses images.
    previous_run: str | None = None
    #: Whether the workers at a broker must allow insecure downloads.
    insecure: bool = False


@contextmanager
def get_worker_pool(request: FleetRequest) -> Iterator[WorkerPool]:
    """Yield the workers of a run: the broker's workers, or else a local fleet for the duration of the block."""
    url = find_broker_url(request.broker)
    if url is None:
        with local_fleet(request) as fleet:
            # Import this module only after the fleet's start, because the import takes half a second.
            from producer.runs.worker_pool import local_pool

            yield local_pool(fleet)
        return
    from producer.runs.worker_pool import broker_pool

    _note_unused_options(url)
    pool = broker_pool(url, request.roots[0], request.insecure)
    for warning in pool.warnings:
        print_warning(warning)
    if not pool.workers:
        print_note(
            "No worker has answered at the broker. The run waits until one does. Start a worker with\n"
            "  celery -A tasks worker  (with IMAGEFLEET_BROKER_URL and IMAGEFLEET_STORE_ROOTS set)",
            quiet=False,
        )
    yield pool


def _note_unused_options(url: str) -> None:
    """Print a note if the user gave options of a local fleet, because workers at a broker ignore such options."""
    from tasks.redaction import redacted

    context = click.get_current_context()
    given = [
        f"--{name}" for name in _FLEET_OPTIONS if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if given:
        has = "has" if len(given) == 1 else "have"
        print_note(
            f"Note: {' and '.join(given)} {has} no effect. Only a local fleet has such options, but this command uses "
            f"the workers at {redacted(url)}.",
            quiet=False,
        )


@contextmanager
def local_fleet(request: FleetRequest) -> Iterator[Fleet]:
    """Run a local fleet for the duration of the block."""
    from config.settings import unknown_variables
    from producer.local_fleet.fleet import Fleet, FleetSize, cores

    if unknown := unknown_variables(os.environ):
        print_warning(f"unknown environment variables are ignored: {', '.join(unknown)}")
    size = FleetSize(request.fleet.workers or len(cores()), request.fleet.concurrency)
    text = f"Starting {pluralized(size.workers, 'worker')}"
    previous = () if request.previous_run is None else [parse_location(request.previous_run)]
    with ExitStack() as stack:
        fleet = Fleet(size, request.roots, request.allow_networks, request.fleet.flower, previous, request.proxied)
        with show_waiting(create_console(sys.stderr), text, request.quiet):
            stack.enter_context(fleet)
        if fleet.flower is not None:
            print_note(f"Flower is at {fleet.flower.text}", quiet=False)
        yield fleet


def describe_size(fleet: Fleet) -> str:
    """Return a text that says how many workers a fleet has, and how many slots each worker has."""
    return f"{pluralized(fleet.size.workers, 'worker')} with {fleet.size.concurrency} slots each"
