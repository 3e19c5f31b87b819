"""Write the produced parts of the documentation: help texts, settings and measured tables (``make docs``).

A produced part is between two marker lines, ``<!-- produced: NAME -->`` and ``<!-- end -->``. `main` replaces the text
between them. A test compares the pages with the produced parts.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from rich.console import Console

from benchmarks import plots, records, report
from config.settings import Settings
from docs import api_source, metric_tables, option_tables, scale_tables
from producer.cli.img2dataset_options import TRANSLATIONS
from producer.cli.main import cli
from producer.cli.render_progress import ProgressView
from producer.demo import ROUTES
from tasks.errors import FetchError
from tasks.model import ImageRequest, Outcome, Reason, Status
from tasks.storage import manifest, plan
from tasks.storage.shard_parquet import ShardRef
from tests.answers import table as answers
from tests.faults import table as faults
from tests.pillow import counts as pillow_counts
from tests.unit.cli import progresses
from tests.upstream.expected import FAILING
from tests.upstream.suites import COUNTS, SUITES

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/commands.md",
    "docs/docker.md",
    "docs/gallery.md",
    "docs/monitoring.md",
    "docs/settings.md",
    "docs/outcomes.md",
    "docs/demo-server.md",
    "docs/scale.md",
    "docs/upstream-tests.md",
    "docs/security.md",
    "docs/faults.md",
    "docs/answers.md",
    "docs/object-stores.md",
    "docs/library.md",
    "docs/compare.md",
    "docs/progress.md",
    "docs/from-img2dataset.md",
    "docs/report.md",
)
_PART = re.compile(r"(<!-- produced: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> str:
    """Return the help text of every command."""
    parts = []
    for path in [(), *((name,) for name in sorted(cli.commands))]:
        shown = CliRunner().invoke(cli, [*path, "--help"], prog_name="producer", terminal_width=100).output
        parts.append(f"## {' '.join(('producer', *path))}\n\n```text\n{shown.strip()}\n```\n")
    return "\n".join(parts)


def settings() -> str:
    """Return the table of the environment's variables."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        shown = f"`{default}`" if default not in (None, "") else "-"
        rows.append(f"| `IMAGEFLEET_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows) + "\n"


def translated_options() -> str:
    """Return a section with a table for each kind of options of img2dataset."""
    parts = []
    for title, rows in TRANSLATIONS.items():
        table = "\n".join(f"| {row.theirs} | {row.ours} |" for row in rows)
        parts.append(f"### {title}\n\n| img2dataset | imagefleet |\n|---|---|\n{table}\n")
    return "\n".join(parts)


def reasons() -> str:
    """Return the table of reasons, each with its meaning, its status, and whether imagefleet retries."""
    rows = ["| reason | status | meaning | retried |", "|---|---|---|---|"]
    kinds = sorted(_kinds(FetchError), key=lambda kind: list(Reason).index(kind.reason))
    for kind in kinds:
        retried = "yes" if kind.retryable else "no"
        meaning = (kind.__doc__ or "").strip().partition("\n")[0]
        rows.append(f"| `{kind.reason}` | `{kind.reason.status}` | {meaning} | {retried} |")
    return "\n".join(rows) + "\n"


def columns() -> str:
    """Return the table of the columns that a manifest has after the columns of the URL list."""
    outcome = Outcome("00000000", Status.SUCCESS)
    ref = ShardRef("", 0)
    table = plan.decode(plan.encode([ImageRequest(0, "")], ref))
    schema = manifest.decode(manifest.encode(table, [outcome], ref)).schema
    rows = ["| column | type |", "|---|---|"]
    rows += [f"| `{field.name}` | {field.type} |" for field in schema]
    return "\n".join(rows) + "\n"


def routes() -> str:
    """Return the table of the demo server's routes."""
    rows = ["| route | what it does |", "|---|---|"]
    rows += [f"| `{name}` | {' '.join(text.split())} |" for name, text in ROUTES.items()]
    return "\n".join(rows) + "\n"


def demo_server(result: Mapping[str, Any]) -> str:
    """Return the results of ``benchmarks/demo_server.py`` as a sentence."""
    drawn, new = result["drawn_per_second"]["median"], result["new_per_second"]["median"]
    return (
        f"One process serves {drawn:,.0f} cached images of 15 KB per second, and draws {new:,.0f} new images per "
        f"second (median of {result['repeat']} runs of `python -m benchmarks.demo_server`; {result['machine']['cpu']}, "
        f"{result['machine']['cores']} cores shared with the client).\n"
    )


def object_store(result: Mapping[str, Any]) -> str:
    """Return the results of ``benchmarks/object_store.py`` as two tables."""
    runs, clients, machine = result["images_per_second"], result["clients"], result["machine"]
    ours = runs["imagefleet"]["median"]
    lines = [
        f"Runs of {result['images']:,} images of 15 KB to moto's server, median of {result['repeat']} "
        f"(`python -m benchmarks.object_store`; {machine['cpu']}, {machine['cores']} cores shared with the server):\n",
        "| run | images/s | imagefleet is faster by |\n|---|---:|---:|",
    ]
    for name, rate in runs.items():
        factor = "" if name == "imagefleet" else f"{ours / rate['median']:.1f} times"
        lines.append(f"| {name} | {rate['median']:,.0f} | {factor} |")
    lines.append("\nOnly the writes, by 32 threads of one process:\n\n| client | median |\n|---|---:|")
    lines += [f"| {name} | {rate['median']:,.2f} |" for name, rate in clients.items()]
    return "\n".join(lines) + "\n"


def gallery(result: Mapping[str, Any]) -> str:
    """Return the results of ``benchmarks/gallery.py`` as a table."""
    machine = result["machine"]
    lines = [
        f"Times for a run of {result['images']:,} images, until a page and its images have arrived (median of "
        f"{result['repeat']}, `python -m benchmarks.gallery`; {machine['cpu']}, {machine['cores']} cores). The server "
        f"used {result['memory_mib']:.0f} MiB of memory.\n",
        "| pages of a new gallery | first page | second page |\n|---|---:|---:|",
    ]
    for name, found in result["pages"].items():
        lines.append(f"| {name} | {found['first']['median']:.2f} s | {found['again']['median']:.2f} s |")
    return "\n".join(lines) + "\n"


def run_report(result: Mapping[str, Any]) -> str:
    """Return the results of ``benchmarks/run_report.py`` as a table."""
    machine = result["machine"]
    rows = ["| images | time | page | memory |", "|---:|---:|---:|---:|"]
    for images, row in result["sizes"].items():
        rows.append(
            f"| {int(images):,} | {row['seconds']['median']:.1f} s | {row['bytes'] / 1e6:.1f} MB "
            f"| {row['memory_mib']:,} MiB |"
        )
    rows += [
        "",
        f"Median of {result['repeat']} runs of `producer report` (`python -m benchmarks.run_report`; {machine['cpu']}, "
        f"{machine['cores']} cores). The images are photos of 160 KB from 20,000 hosts, and one in thirty failed.",
    ]
    return "\n".join(rows) + "\n"


def compose(result: Mapping[str, Any]) -> str:
    """Return the results of ``benchmarks/compose.py`` as text."""
    return (
        f"The container image has {result['image_mb']:,.0f} MB. When it is already built, the stack is healthy "
        f"{result['ready_seconds']['median']:.0f} s after `up`, and the first downloaded image is saved "
        f"{result['first_image_seconds']['median']:.0f} s after `up` (median of {result['repeat']} starts from "
        f"nothing; {result['machine']['cpu']}, {result['machine']['cores']} cores).\n"
    )


def task_events(result: Mapping[str, Any]) -> str:
    """Return the table of the workload ``task-events`` of ``benchmarks/workloads.py``."""
    ways = result["ways"]
    rows = ["| task events | images/s (lowest to highest) | CPU per image | Flower's share |", "|---|---|---|---|"]
    for name, way in ways.items():
        rate, cpu = way["images_per_second"], way["cpu_ms_per_image"]
        flower = f"{cpu['flower']:.2f} ms" if "flower" in cpu else "-"
        rows.append(
            f"| {name} | {rate['median']:,.0f} ({rate['least']:,.0f} to {rate['most']:,.0f}) "
            f"| {sum(cpu.values()):.2f} ms | {flower} |"
        )
    rows += [
        "",
        "For large runs, set `IMAGEFLEET_TASK_EVENTS=off`. Workers then send up to three messages fewer per image. The "
        f"table shows the medians of {result['repeat']} runs with {result['images']:,} images of 15 KB. All processes "
        f"shared {result['machine']['cores']} cores.",
    ]
    return "\n".join(rows) + "\n"


def metrics_cost(result: Mapping[str, Any]) -> str:
    """Return a sentence about the result of ``benchmarks/metrics.py``."""
    return (
        f"Counting an image takes {result['counting_us']['median']:.1f} µs of CPU time and sends no message. A read of "
        f"all metrics takes {result['reading_ms']['median']:.1f} ms ({result['machine']['cpu']}, medians of "
        f"{result['repeat']} measurements).\n"
    )


def upstream() -> str:
    """Return the results of kombu's and Celery's own tests with our code, with a reason for each failing test."""
    counts = json.loads(COUNTS.read_text(encoding="utf-8"))
    rows = [
        "| suite | test files, in `t/` | pass | do not pass (see below) | skipped | marked `xfail` by their authors |",
        "|---|---|---|---|---|---|",
    ]
    for suite in SUITES:
        modules = ", ".join(f"`{module}`" for module in suite.modules)
        number = counts[suite.name]
        rows.append(
            f"| {suite.name} | {modules} | {number['passed']} | {number['expected']} | {number['skipped']} "
            f"| {number['marked']} |"
        )
    total = {kind: sum(number[kind] for number in counts.values()) for kind in ("passed", "expected")}
    rows += [
        "",
        f"Of the tests of kombu {version('kombu')} and Celery {version('celery')}, {total['passed']:,} pass. These "
        f"{total['expected']} tests do not pass:",
        "",
        "| tests | why they do not pass |",
        "|---|---|",
    ]
    for suite in SUITES:
        for reason, names in FAILING[suite.name].items():
            tests = "<br>".join(f"`{name.partition('::')[2].replace('::', '.')}`" for name in names)
            rows.append(f"| {suite.name}:<br>{tests} | {reason} |")
    return "\n".join(rows) + "\n"


def pillow_images() -> str:
    """Return the results of downloading Pillow's own test images, for each format."""
    counts = json.loads(pillow_counts.COUNTS.read_text(encoding="utf-8"))
    decoded, resized = counts["decode"], counts["resize"]
    ends = [reason for reason in pillow_counts.REASONS if any(reason in number for number in decoded.values())]
    rows = [
        f"| format | files | decoded | {' | '.join(f'`{reason}`' for reason in ends)} | can be resized |",
        f"|---|---|---|{'---|' * len(ends)}---|",
    ]
    total = {
        name: {end: sum(number.get(end, 0) for number in run.values()) for end in ("success", *ends)}
        for name, run in (("decode", decoded), ("resize", resized))
    }
    for kind, ended, made in [
        *((kind, decoded[kind], resized[kind]) for kind in pillow_counts.KINDS),
        ("all", total["decode"], total["resize"]),
    ]:
        numbers = [sum(ended.values()), ended.get("success", 0), *(ended.get(end, 0) for end in ends)]
        rows.append(f"| {kind} | {' | '.join(f'{number:,}' for number in numbers)} | {made.get('success', 0):,} |")
    return "\n".join(rows) + f"\n\nThe images are those of Pillow {counts['version']}.\n"


def example(name: str) -> str:
    """Return the output of a command, as recorded by `docs/examples.py`."""
    return f"```text\n{(ROOT / 'docs' / 'examples' / f'{name}.txt').read_text(encoding='utf-8').rstrip()}\n```\n"


def progress_display() -> str:
    """Return the display of a run with some trouble, at 80 columns."""
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    with screen.capture() as captured:
        screen.print(ProgressView(progresses.FULL))
    shown = "\n".join(line.rstrip() for line in captured.get().splitlines())
    return f"```text\n{shown}\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "functions": api_source.functions,
    "options": option_tables.options,
    "reasons": reasons,
    "translated-options": translated_options,
    "columns": columns,
    "routes": routes,
    "demo-server": lambda: _measured("demo-server", demo_server),
    "speed": lambda: report.readme(records.load_all()),
    "object-store": lambda: _measured("object-store", object_store),
    "gallery": lambda: _measured("gallery", gallery),
    "run-report": lambda: _measured("run-report", run_report),
    "compose": lambda: _measured("compose", compose),
    "task-events": lambda: _measured("task-events", task_events),
    "metrics-cost": lambda: _measured("metrics", metrics_cost),
    "metrics-command": metric_tables.command,
    "metrics-worker": metric_tables.worker,
    "scale-redis": lambda: _measured("scale", scale_tables.redis),
    "scale-loads": lambda: _measured("scale", scale_tables.loads),
    "scale-growth": lambda: _measured("growth", scale_tables.growth),
    "scale-rates": lambda: _measured("scale", scale_tables.rates),
    "scale-lists": lambda: _measured("scale", scale_tables.lists),
    "upstream": upstream,
    "pillow-images": pillow_images,
    "answers": answers.answers,
    "faults": faults.survived,
    "faults-without-repair": faults.without_repair,
    "redis-errors": faults.redis_errors,
    "run-example": lambda: example("run"),
    "demo-example": lambda: example("demo"),
    "sweep-example": lambda: example("sweep"),
    "progress-display": progress_display,
}


def produced(text: str) -> str:
    """Return a page with its produced parts renewed."""
    return _PART.sub(lambda part: part[1] + PARTS[part["name"]]() + part[3], text)


def main() -> None:
    """Write every page's produced parts, and the results page and the plots of the benchmarks."""
    for name in PAGES:
        page = ROOT / name
        page.write_text(produced(page.read_text(encoding="utf-8")), encoding="utf-8")
        click.echo(name)
    report.PAGE.write_text(report.page(records.load_all()), encoding="utf-8")
    plots.write(records.load_all())
    click.echo(report.PAGE.relative_to(ROOT))


def _kinds(base: type[FetchError]) -> list[type[FetchError]]:
    found = []
    for kind in base.__subclasses__():
        found += [kind, *_kinds(kind)]
    return found


def _measured(name: str, shown: Callable[[Mapping[str, Any]], str]) -> str:
    """Return the text of a benchmark's result, or a note that the result is missing."""
    result = records.load(name)
    return report.MISSING if result is None else shown(result)


if __name__ == "__main__":
    main()
