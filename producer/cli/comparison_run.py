"""Run a comparison for a command: get the fleets, show the progress, and save and show the result."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import click

from producer.cli.comparison_display import ComparisonDisplay
from producer.cli.console import create_console, show
from producer.cli.fleets import FleetRequest, get_worker_pool
from producer.cli.json_result import current_result
from producer.cli.sweep_run import SweepRunner
from producer.runs.preflight import check_local_options
from tasks import file_descriptors, runtime_tuning

if TYPE_CHECKING:
    from producer.comparison.comparison import Comparison
    from producer.output.run_file import RunConfig
    from tasks.download.guard import Guard
    from tasks.model import ImageRequest
    from tasks.throttle.gate import HostGate

#: The folder for the images of a sweep, in the output folder. It is removed at the end.
_SWEEP_FOLDER = ".sweep"


@dataclass(frozen=True, slots=True)
class ComparisonParameters:
    """The values of a comparison's own options."""

    threads: int
    sweep: bool


def run_comparison(
    requests: Sequence[ImageRequest],
    source: str,
    out: Path,
    config: RunConfig,
    measured: ComparisonParameters,
    request: FleetRequest,
) -> Comparison:
    """Download the images in the three ways, and show the progress.

    Raises:
        CommandError: one of the ways failed completely.
    """
    from producer.comparison import comparison, way
    from producer.output.folder import prepare_output
    from tasks.download import downloader as downloading
    from tasks.download import network_settings

    # The first two ways run in this process.
    runtime_tuning.configure_pillow()
    check_local_options(config)
    file_descriptors.check_slots(measured.threads, "--threads")
    prepare_output(out)
    root = out.resolve()
    current_result().comparison_folder = out
    compared = comparison.ComparedList(requests, source, comparison.stores(root), config)
    guard = network_settings.guard(request.allow_networks)
    downloader = downloading.create_downloader(guard, request.proxied, gate=_baseline_gate(guard))
    sweep = SweepRunner(compared.job(way.FLEET), root / _SWEEP_FOLDER, downloader) if measured.sweep else None
    roots = [compared.places[way.FLEET].root, *([] if sweep is None else [sweep.folder])]
    request = replace(request, roots=roots, insecure=config.fetch.insecure)
    with (
        get_worker_pool(request) as pool,
        ComparisonDisplay(create_console(sys.stderr), len(requests), request.quiet) as display,
    ):
        found = comparison.compare(compared, measured.threads, downloader, pool, display.show)
        lengths = () if sweep is None else sweep.time_lengths(found.ways, pool, display)
        if request.fleet.flower and sys.stdin.isatty() and not request.quiet:
            display.close()
            click.pause("Flower shows the fleet. Press any key to stop both.", err=True)
    if sweep is None:
        return found
    return replace(found, sweep=sweep.time_sizes(found.ways, lengths, pool, request))


def show_comparison(comparison: Comparison, out: Path) -> None:
    """Save a comparison's numbers and chart, and print its table or its JSON object."""
    from producer.cli import render
    from producer.comparison import chart
    from producer.doctor import folder_checks

    chart_file, numbers = out / "comparison.svg", out / folder_checks.COMPARISON
    chart.draw(comparison, chart_file)
    facts = {**comparison.to_json(), "out": str(out.resolve()), "chart": str(chart_file.resolve())}
    numbers.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    current_result().emit(facts)
    if current_result().as_json:
        return
    show(render.render_comparison(comparison))
    click.echo(f"The images are in {out}, in a folder for each way. The chart is {chart_file}.")


def _baseline_gate(guard: Guard) -> HostGate:
    """Return the gate of this process, which keeps the same limits per host as the fleet.

    A baseline can't fetch other images while it waits for a host, so it waits for as long as it takes.
    """
    from tasks.throttle.gate import HostGate
    from tasks.throttle.host_key import HostKeys
    from tasks.throttle.memory_registry import MemoryRegistry

    return HostGate(MemoryRegistry(), "baseline", HostKeys(guard.address_of), patience=inf)
