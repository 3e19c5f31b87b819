"""The commands for workers: run a local fleet, and check workers and their broker."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import cloup

from config.locations import Location, resolved
from producer.cli.console import print_note, show
from producer.cli.examples import epilog
from producer.cli.fleets import FleetRequest, describe_size, local_fleet
from producer.cli.json_result import current_result
from producer.cli.parameter_types import OutputLocation
from producer.cli.parameters import FleetParameters, broker_option, fleet_size_options, json_option
from producer.runs.preflight import check_network_settings


@cloup.command(
    short_help="Run workers and Flower, for any number of runs.",
    epilog=epilog(
        {
            "Run workers that may write below the current folder": "producer fleet",
            "Run eight workers for runs in /data": "producer fleet --workers 8 --store-root /data",
        }
    ),
)
@click.option(
    "--store-root",
    "store_roots",
    multiple=True,
    type=OutputLocation(),
    help="Folder to which the workers may write, subfolders included: a path, or a URL such as s3://bucket/prefix. "
    "Repeatable.  [default: the current folder]",
)
@fleet_size_options
def fleet(store_roots: tuple[Location, ...], fleet: FleetParameters) -> None:
    """Run a local fleet with Flower until Ctrl-C, for any number of runs."""
    check_network_settings()
    roots = [resolved(root) for root in store_roots or (Path(),)]
    with local_fleet(FleetRequest(replace(fleet, flower=True), roots=roots)) as running:
        click.echo(f"The fleet is ready after {running.startup_seconds:.2f} s: {describe_size(running)}.")
        click.echo(f"Its workers may write to {', '.join(str(root) for root in roots)}, subfolders included.")
        click.echo("To use the fleet, run in another terminal:")
        click.echo(f"  producer run SOURCE --out OUT --broker {running.broker_url}")
        click.echo("Press Ctrl-C to stop the fleet.")
        try:
            while True:
                running.check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            print_note("Stopping the fleet …", quiet=False)


@cloup.command(
    short_help="Find problems of the broker, the workers and a run.",
    epilog=epilog(
        {
            "Check this machine, and the configured broker": "producer doctor",
            "Check a run, and the workers at a Redis": "producer doctor --out images --broker redis://broker:6379/0",
        }
    ),
)
@click.option(
    "--out",
    type=OutputLocation(),
    help="Output folder to check, here and from each worker. Its run is checked too.",
)
@broker_option
@json_option
def doctor(out: Location | None, broker: str | None, as_json: bool) -> None:
    """Check the broker, the workers, their clocks, and an output folder with its run. Show how to fix problems.

    The exit status is 1 if a check has the result "bad".
    """
    from producer.doctor.diagnosis import diagnose

    diagnosis = diagnose(broker, out)
    current_result().emit(diagnosis.to_json())
    if not as_json:
        from producer.cli import render

        show(render.render_diagnosis(diagnosis))
    sys.exit(0 if diagnosis.healthy else 1)
