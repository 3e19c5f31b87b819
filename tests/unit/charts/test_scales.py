"""Scales place values and choose round ticks."""

from __future__ import annotations

import pytest

from producer.charts.scales import LinearScale, LogScale, round_seconds, round_step, scale_to
from producer.charts.texts import format_count, format_seconds, format_share, format_tick


@pytest.mark.parametrize(
    ("span", "ticks", "step"), [(10, 5, 2), (9.9, 5, 2), (1000, 3, 500), (0.7, 5, 0.2), (3e6, 6, 500_000)]
)
def test_steps_are_round(span: float, ticks: int, step: float) -> None:
    """A step is 1, 2 or 5 times a power of ten."""
    assert round_step(span, ticks) == pytest.approx(step)


@pytest.mark.parametrize(
    ("span", "step"), [(0.3, 0.05), (30, 5), (100, 20), (400, 120), (20_000, 3600), (2e6, 345_600)]
)
def test_steps_of_time_are_round(span: float, step: float) -> None:
    """Steps of more than ten seconds are round numbers of seconds, minutes, hours or days."""
    assert round_seconds(span, 6) == pytest.approx(step)


def test_scales_place_values() -> None:
    """The least value is at 0 %, the greatest at 100 %; on a logarithmic scale, equal factors are equal distances."""
    assert [LinearScale(10, 20).percent(value) for value in (10, 15, 20)] == [0, 50, 100]
    assert [round(LogScale(0.1, 10).percent(value)) for value in (0.1, 1, 10)] == [0, 50, 100]
    assert list(LinearScale(0, 0.3).ticks(0.1)) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_scale_ends_at_a_tick() -> None:
    """A chart's scale ends at the first tick at or above its greatest value. Without values, it ends at 1."""
    assert scale_to(743, 3) == (LinearScale(0, 1000), 500)
    assert scale_to(0.0, 3)[0] == LinearScale(0, 1)


def test_numbers_are_short() -> None:
    """Durations have three digits, and a small share is not shown as nothing."""
    assert [format_seconds(value) for value in (0.00032, 0.0041, 0.99999, 2.346, 59.9, 125, 7300)] == [
        *("320 µs", "4.10 ms", "1.00 s", "2.35 s", "59.9 s", "2 min 05 s", "2 h 02 min")
    ]
    assert [format_tick(value) for value in (0, 0.2, 5, 90, 7200)] == ["0", "200 ms", "5 s", "1 min 30 s", "2 h"]
    assert [format_count(value) for value in (0.25, 12, 950, 12_345, 999_700, 2.5e6)] == [
        *("0.25", "12", "950", "12.3k", "1M", "2.5M")
    ]
    assert [format_share(part, 10_000) for part in (0, 1, 50, 5000, 9999, 10_000)] == [
        *("0 %", "< 0.1 %", "0.5 %", "50 %", "> 99.9 %", "100 %")
    ]
    assert format_share(0, 0) == "-"
