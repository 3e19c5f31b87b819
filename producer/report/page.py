"""Render the report of a run as one HTML file, with Jinja2. Every text is escaped, and secrets are masked.

The page loads nothing: styles, script, charts and thumbnails are in the file. Its content security policy allows only
these, so nothing else runs, even if a text were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import producer.charts
from config import VERSION
from producer.charts.elements import bar
from producer.charts.texts import format_count, format_seconds, format_share
from producer.formatting import format_size, pluralized
from producer.report import run_charts
from producer.report.contact_sheet import SheetImage
from producer.report.figures import Figures
from producer.report.repairs import describe_repairs
from producer.report.repeat import continuation_command, failures_command, library_options, lost_options, repeat_command
from producer.sources import url_list
from tasks.redaction import redacted

_FOLDER = Path(__file__).parent
#: The maximum numbers of rows in the tables of hosts and of sizes in pixels.
_MOST_HOSTS, _MOST_SIZES = 50, 10
#: The maximum number of characters of a text. A list may have images as long ``data:`` URLs, and the page would grow.
_MOST_CHARACTERS = 2000
#: What a download does in each phase.
_PHASES = {
    "queued": "from sending the task to its start in a slot",
    "connect": "name resolution, connecting, TLS",
    "first_byte": "from the request to the end of the response's header",
    "body": "receiving the image",
    "verify": "checking and resizing the image",
    "save": "writing the file",
    "waiting": "waits before a retry and for a free place at the host",
}


def render(figures: Figures, sheet: Callable[[], Sequence[SheetImage]]) -> str:
    """Return the page.

    Args:
        figures: the figures of the run.
        sheet: a function that returns the images of the contact sheet. It is called last, because it may wait for them.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=lambda number: f"{number:,}",
        short=format_count,
        seconds=format_seconds,
        wall=_format_wall_time,
        size=format_size,
        share=format_share,
        shown=_shown,
        link=_web_link,
        moment=_format_time,
        bar=bar,
        plural=pluralized,
    )
    style = "".join((folder / name).read_text(encoding="utf-8") for folder, name in _STYLES)
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    template = environment.get_template("report.html.j2")
    return template.render(
        **_content(figures),
        sheet=sheet(),
        # The hash in the policy covers the exact text between the tags.
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        policy=_policy(style, script),
        version=VERSION,
        created=time.time(),
    )


_STYLES = ((Path(producer.charts.__file__).parent, "charts.css"), (_FOLDER, "report.css"))


def _policy(style: str, script: str) -> str:
    """Return a content security policy that allows this style and this script, and images in the file."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _content(figures: Figures) -> dict[str, Any]:
    """Return the values for the template."""
    record = figures.record
    return {
        "figures": figures,
        "record": record,
        "summary": figures.summary,
        "totals": figures.totals,
        "source": "standard input" if record.source == url_list.STANDARD_INPUT else url_list.shown(record.source),
        "throughput": run_charts.throughput_charts(figures.activity),
        "phases": _phases(figures),
        "reasons": _reasons(figures),
        "hosts": figures.hosts.most(_MOST_HOSTS),
        "sizes": figures.images.sizes.most_common(_MOST_SIZES),
        "size_chart": run_charts.distribution_chart(figures.file_bytes, "bytes", "Sizes of the saved files"),
        "side_chart": run_charts.distribution_chart(figures.sides, "pixels", "Longer sides of the saved images"),
        "timeline": run_charts.worker_timeline(figures),
        "timeline_axis": run_charts.timeline_axis(figures.activity),
        "repairs": describe_repairs(figures),
        "repeat": repeat_command(record),
        "show_failures": failures_command(record),
        "continuation": continuation_command(record),
        "lost_options": lost_options(record),
        "library_options": library_options(record),
    }


def _phases(figures: Figures) -> list[dict[str, Any]]:
    """Return a row for each phase: its figures, its histogram, and its share of the time of a mean download."""
    means = dict(run_charts.phase_shares(figures))
    total = sum(means.values())
    found = []
    for name, meaning in _PHASES.items():
        distribution = figures.phases.get(f"{name}_seconds")
        title = name.replace("_", " ").capitalize()
        found.append(
            {
                "title": title,
                "meaning": meaning,
                "distribution": distribution,
                "chart": distribution and run_charts.distribution_chart(distribution, "seconds", title),
                "mean": means.get(name),
                "share": means[name] / total if name in means and total else None,
            }
        )
    return found


def _reasons(figures: Figures) -> list[dict[str, Any]]:
    """Return a row for each reason: the number of failures, and one of them as an example."""
    examples: dict[str, dict[str, Any]] = {}
    for row in figures.samples.failed:
        examples.setdefault(row["reason"], row)
    return [
        {"reason": reason, "number": number, "example": examples.get(reason)}
        for reason, number in figures.summary.reasons.items()
    ]


def _shown(text: object) -> str:
    """Return a text without secrets, and shortened if it is very long."""
    shown = redacted(str(text))
    return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[:_MOST_CHARACTERS]}… ({len(shown):,} characters)"


def _web_link(url: str) -> str | None:
    """Return a URL for a link, without secrets; None if it is very long, or is no URL of a web page."""
    shown = redacted(url).strip()
    is_link = shown.lower().startswith(("http://", "https://")) and len(shown) <= _MOST_CHARACTERS
    return shown if is_link else None


def _format_wall_time(seconds: float) -> str:
    """Return the Total Execution Time. A short one has as many digits as in the terminal."""
    return f"{seconds:.2f} s" if seconds < 120 else format_seconds(seconds)


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
