"""Charts are well-formed SVG without outside requests, and texts in them are escaped."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from producer.charts.areas import TimeSeries, area_chart
from producer.charts.elements import bar, drawing, label
from producer.charts.histograms import Bar, Marker, Unit, histogram
from producer.charts.lanes import Interval, assign_lanes, lanes
from producer.charts.scales import LinearScale
from producer.charts.texts import format_count, format_seconds

_HOSTILE = "</title><script>alert('1')</script>&\""


def parsed(chart: Markup) -> ElementTree.Element:
    """Return the parsed chart. It is well-formed, and contains no script and no link."""
    root = ElementTree.fromstring(chart)
    for element in root.iter():
        assert element.tag not in ("script", "image", "use", "a")
        assert not any(name.endswith("href") or name.startswith("on") for name in element.attrib)
    return root


def test_texts_are_escaped() -> None:
    """Texts, tooltips and descriptions are shown as they are, even if they hold markup."""
    intervals, _ = lanes([Interval(0, 1, _HOSTILE)], LinearScale(0, 1))
    root = parsed(drawing([label(_HOSTILE, 0, 10), *intervals], 20, _HOSTILE))
    assert root.get("aria-label") == _HOSTILE
    assert [element.text for element in root.iter() if element.text] == [_HOSTILE, _HOSTILE]


@given(st.lists(st.floats(0, 1e9), max_size=40), st.floats(0.01, 1e7))
def test_curves_stay_within_the_chart(values: list[float], seconds: float) -> None:
    """A curve of any values is drawn inside the chart, and no place is infinite or not a number."""
    root = parsed(area_chart(TimeSeries(values, seconds, [str(value) for value in values]), "values"))
    for element in root.iter("rect"):
        assert 0 <= float(element.attrib.get("x", "0").rstrip("%")) <= 100
    assert "nan" not in str(ElementTree.tostring(root))
    assert "inf" not in str(ElementTree.tostring(root))


def test_histogram_marks_percentiles() -> None:
    """Each bar has its number as a tooltip, and each marker its text."""
    bars = [Bar(1, 10, 5), Bar(10, 100, 0), Bar(100, 1000, 2)]
    root = parsed(
        histogram(bars, Unit(format_count, format_count), "sizes", [Marker(5, "median 5"), Marker(900, "99 % 900")])
    )
    texts = {element.text for element in root.iter() if element.text}
    assert {"1 to 10: 5", "100 to 1,000: 2", "median 5", "99 % 900"} <= texts


def test_histogram_of_equal_values_has_an_axis() -> None:
    """If all values are in one bar, its ends are the ticks."""
    root = parsed(histogram([Bar(0.002, 0.003, 7)], Unit(format_seconds, format_seconds), "times"))
    assert {"2.00 ms", "3.00 ms"} <= {element.text for element in root.iter("text")}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 10)), max_size=30))
def test_intervals_of_a_lane_do_not_overlap(pairs: list[tuple[float, float]]) -> None:
    """Intervals that overlap are in different lanes, and there are as few lanes as intervals overlap at most."""
    intervals = sorted((Interval(start, start + length, "") for start, length in pairs), key=lambda each: each.start)
    assigned = assign_lanes(intervals)
    ends: dict[int, float] = {}
    for interval, lane in zip(intervals, assigned, strict=True):
        assert ends.get(lane, -math.inf) <= interval.start
        ends[lane] = interval.end
    most = max((sum(one.start <= each.start < one.end for one in intervals) for each in intervals), default=0)
    assert len(ends) <= max(most, min(len(intervals), 1))


def test_bar_is_limited_to_its_cell() -> None:
    """A share above one fills the cell."""
    assert parsed(bar(1.5)).find("rect") is not None
    assert 'width="100.0%"' in bar(1.5)
