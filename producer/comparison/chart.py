"""Draw a comparison as a bar chart with matplotlib."""

from __future__ import annotations

from pathlib import Path

from producer.comparison.comparison import Comparison

_COLOURS = ("#9aa5b1", "#4f8fba", "#e07b39")


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the wall-clock times as horizontal bars, and save the chart to a file.

    The file's suffix (.svg, .png) selects the format.
    """
    # Importing matplotlib takes half a second, and only this command needs it.
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.4), layout="constrained")
    axes = figure.subplots()
    names = [way.name for way in comparison.ways]
    bars = axes.barh(names, [way.wall_seconds for way in comparison.ways], color=_COLOURS, height=0.6)
    labels = [f"{way.wall_seconds:.2f} s   {comparison.speedup(way):.1f} x" for way in comparison.ways]
    axes.bar_label(bars, labels, padding=6)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.set_xlabel("Total Execution Time in seconds (shorter is better)")
    axes.set_title(f"{comparison.ways[0].summary.total:,} images, three ways", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    # The file contains no date, and its ids are fixed. So the same numbers give the same file.
    with mpl.rc_context({"svg.hashsalt": "imagefleet"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
