"""A comparison's chart in a browser: it opens from a file, fits the window, and its texts can be read."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.integration import processes

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: The boxes of all texts, as left, top, right, bottom and the text itself.
_BOXES = """[...document.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect();
    return [box.left, box.top, box.right, box.bottom, text.textContent];
})"""
_BACKGROUND = "getComputedStyle(document.querySelector('.page')).fill"


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the chart of a demo with a sweep."""
    out = tmp_path_factory.mktemp("demo") / "out"
    ended = processes.producer("demo", "--images", "11", "--latency", "50ms", "--workers", "2", "--sweep", "--out", out)
    assert ended.code == 0, ended.err
    return out / "comparison.svg"


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(252, 252, 251)"), ("dark", "rgb(20, 24, 27)")])
def test_chart_fits_the_window(
    browser: Browser, chart: Path, width: int, scheme: Literal["light", "dark"], background: str
) -> None:
    """No text leaves the window or covers another one. The chart asks for nothing, and has the colours of the theme."""
    requested: list[str] = []
    problems: list[str] = []
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True) as context:
        page = context.new_page()
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(chart.as_uri())
        boxes = page.evaluate(_BOXES)
        assert page.evaluate(_BACKGROUND) == background
    assert requested == [chart.as_uri()]
    assert problems == []
    assert len(boxes) > 40
    for left, _, right, _, text in boxes:
        assert left >= 0, text
        assert right <= width, text
    for one, other in combinations(boxes, 2):
        assert not _overlap(one, other), (one[4], other[4])


def _overlap(one: list[float], other: list[float]) -> bool:
    """Return whether two boxes share more than their edges."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across > 1 and down > 1
