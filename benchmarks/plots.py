"""Draw the plots of the README and of ``RESULTS.md``, as SVG for light and for dark pages.

The output is reproducible: it contains no date, ids are stable, and text is stored as text.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import goals
from benchmarks.goals import Result
from benchmarks.processes import COMMAND, REDIS, UNSEEN, WORKERS
from benchmarks.workloads import HTTP_SMALL, IMAGEFLEET, WORKLOADS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).with_name("plots")
#: Length of an axis relative to its longest bar. The remaining space is for a label.
_AXIS_TO_BAR = 1.45
#: A bar is cut off if it is more than this many times as long as the second longest bar.
_CUT_OFF_RATIO = 3


@dataclass(frozen=True)
class _Theme:
    """The colours of a page."""

    page: str
    ink: str
    faint: str
    ours: str
    others: str
    roles: Mapping[str, str]


_THEMES = {
    "light": _Theme(
        "#ffffff",
        "#1f2328",
        "#d1d9e0",
        "#d9622b",
        "#8c9aa8",
        {WORKERS: "#d9622b", COMMAND: "#4f8fba", REDIS: "#7a5195", UNSEEN: "#b8c0c8"},
    ),
    "dark": _Theme(
        "#0d1117",
        "#f0f6fc",
        "#3d444d",
        "#f0883e",
        "#768390",
        {WORKERS: "#f0883e", COMMAND: "#58a6ff", REDIS: "#bc8cff", UNSEEN: "#545d68"},
    ),
}
_LABELS = {WORKERS: "workers", COMMAND: "producer, or the command itself", REDIS: "Redis", UNSEEN: "not sampled"}


def names(results: Mapping[str, Result]) -> list[str]:
    """Return the names of the plots for the existing results."""
    return [*(["speed"] if _compared(results) else []), *(["cpu"] if HTTP_SMALL.name in results else [])]


def draw(results: Mapping[str, Result]) -> dict[str, dict[str, str]]:
    """Return the plots for the existing results as SVG, by name and theme."""
    drawings = {
        "speed": lambda theme: _speed(_compared(results), theme),
        "cpu": lambda theme: _cpu(results[HTTP_SMALL.name], theme),
    }
    return {name: {theme: drawings[name](_THEMES[theme]) for theme in _THEMES} for name in names(results)}


def _compared(results: Mapping[str, Result]) -> list[Result]:
    """Return the results that the plot of the speeds shows."""
    return [results[workload.name] for workload in WORKLOADS if workload.name in results and not workload.short]


def write(results: Mapping[str, Result]) -> None:
    """Write the plots into their folder."""
    FOLDER.mkdir(exist_ok=True)
    for name, themes in draw(results).items():
        for theme, svg in themes.items():
            file(name, theme).write_text(svg, encoding="utf-8")


def html(name: str, folder: Path) -> str:
    """Return HTML that shows a plot in the colours of the reader's page.

    ``folder`` is the parent of ``plots``.
    """
    about = {
        "speed": "Images per second of imagefleet and its peers, for each workload",
        "cpu": "CPU time per image of imagefleet and its peers, by role",
    }[name]
    light, dark = (folder / file(name, theme).relative_to(FOLDER.parent) for theme in ("light", "dark"))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{about}" src="{light}"></picture>'
    )


def file(name: str, theme: str) -> Path:
    """Return the path of a plot."""
    return FOLDER / f"{name}-{theme}.svg"


def _speed(results: list[Result], theme: _Theme) -> str:
    heights = [len(result["ways"]) + 1.6 for result in results]
    figure = _figure(0.34 * sum(heights), theme)
    panels = figure.subplots(len(results), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, result in zip(panels, results, strict=True):
        ways = result["ways"]
        rates = {name: row["of_command"] for name, row in ways.items()}
        medians = [rate["median"] for rate in rates.values()]
        spread = [
            [rate["median"] - rate["least"] for rate in rates.values()],
            [rate["most"] - rate["median"] for rate in rates.values()],
        ]
        colours = [theme.ours if name == IMAGEFLEET else theme.others for name in ways]
        axes.barh(list(ways), medians, xerr=spread, color=colours, ecolor=theme.ink, height=0.65)
        *_, second, longest = sorted(medians)
        # On an axis long enough for curl, the other bars would be too short to compare.
        end = _AXIS_TO_BAR * (second if longest > _CUT_OFF_RATIO * second else longest)
        for row, (name, rate) in enumerate(zip(ways, medians, strict=True)):
            beyond = rate > end
            label = f"{_label(result, name, rate)}{' →' if beyond else ''}"
            at, side, colour = (end, "right", theme.page) if beyond else (spread[1][row] + rate, "left", theme.ink)
            axes.annotate(
                label,
                (at, row),
                (-8 if beyond else 6, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                color=colour,
            )
        _style(axes, theme, result["about"])
        axes.set_xlim(0, end)
    panels[-1].set_xlabel("images per second, from a command's start to its exit; the line: from the least to the most")
    return _svg(figure, theme)


def _cpu(result: Result, theme: _Theme) -> str:
    ways = result["ways"]
    figure = _figure(0.34 * (len(ways) + 4), theme)
    axes = figure.subplots()
    left = [0.0] * len(ways)
    for role, label in _LABELS.items():
        widths = [row["cpu_ms_per_image"].get(role, 0.0) for row in ways.values()]
        bars = axes.barh(list(ways), widths, left=left, label=label, color=theme.roles[role], height=0.65)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.bar_label(bars, [f"{width:.2f} ms" for width in left], padding=6, color=theme.ink)
    axes.set_xlim(0, _AXIS_TO_BAR * max(left))
    _style(axes, theme, f"CPU time per image: {result['about']}")
    axes.set_xlabel("milliseconds")
    figure.legend(loc="outside lower center", ncols=len(_LABELS), frameon=False, labelcolor=theme.ink)
    return _svg(figure, theme)


def _label(result: Result, name: str, rate: float) -> str:
    ratio = goals.ratio(result, IMAGEFLEET, name)
    compared = f" · imagefleet is {ratio['median']:.2f} x" if ratio is not None and name != IMAGEFLEET else ""
    return f"{rate:,.0f}{compared}"


def _figure(height: float, theme: _Theme) -> Figure:
    # Importing matplotlib takes half a second, but most programs that import this module draw nothing.
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), layout="constrained", facecolor=theme.page)


def _style(axes: Axes, theme: _Theme, title: str) -> None:
    axes.invert_yaxis()
    axes.set_title(title, loc="left", color=theme.ink)
    axes.set_facecolor(theme.page)
    axes.tick_params(colors=theme.ink, length=0)
    axes.xaxis.label.set_color(theme.ink)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(theme.faint)
    axes.grid(axis="x", color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)


def _svg(figure: Figure, theme: _Theme) -> str:
    import matplotlib as mpl

    drawn = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "imagefleet", "svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None}, facecolor=theme.page)
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"
