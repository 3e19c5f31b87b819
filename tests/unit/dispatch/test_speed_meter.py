"""The speed of a run: at present, on average, and the remaining time."""

from __future__ import annotations

import pytest

from producer.dispatch import speed_meter
from producer.dispatch.progress import Speed
from producer.dispatch.speed_meter import SpeedMeter
from tests.unit.cli.test_progress_display import Watch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return the meter's clock."""
    watch = Watch()
    monkeypatch.setattr(speed_meter, "time", watch)
    return watch


def test_present_and_average_speed(watch: Watch) -> None:
    """The present speed covers ten seconds, and the average covers the whole command. The first second is slower."""
    meter = SpeedMeter()
    meter.measure(0, 0, 100.0, 1000)
    images = 0
    for second in range(1, 31):
        watch.now += 1
        images += 2 if second <= 10 else 10
        found = meter.measure(images, images * 100, 100.0, 1000 - images)
    assert (found.images_per_second, found.bytes_per_second) == (10.0, 1000.0)
    assert found.seconds == 30.0
    assert found.average_images_per_second == pytest.approx(220 / 30)
    assert found.average_bytes_per_second == pytest.approx(22_000 / 30)
    # The remaining time is calmer than the present speed, because it covers a minute.
    assert found.seconds_left == pytest.approx(780 / (220 / 30))


def test_speed_before_the_first_task(watch: Watch) -> None:
    """Before a task was sent, there is neither a speed nor a remaining time."""
    assert SpeedMeter().measure(0, 0, 0.0, 5) == Speed()


def test_standstill_has_no_remaining_time(watch: Watch) -> None:
    """After ten seconds without a finished image, the remaining time is unknown."""
    meter = SpeedMeter()
    meter.measure(0, 0, 100.0, 100)
    left = []
    for _ in range(12):
        watch.now += 1
        left.append(meter.measure(10, 0, 100.0, 90).seconds_left)
    assert left[8] == 81.0
    assert left[-2:] == [None, None]


def test_speed_after_redis_was_emptied(watch: Watch) -> None:
    """If the number of images decreases, the measurement starts again."""
    meter = SpeedMeter()
    meter.measure(0, 0, 100.0, None)
    watch.now += 1
    meter.measure(500, 0, 100.0, None)
    watch.now += 1
    assert meter.measure(10, 0, 100.0, None).images_per_second == 0.0
    watch.now += 1
    found = meter.measure(30, 0, 100.0, None)
    assert (found.images_per_second, found.seconds_left) == (20.0, None)


def test_samples_are_few(watch: Watch) -> None:
    """A dispatcher that sends many shards measures often, but only some samples are kept."""
    meter = SpeedMeter()
    for number in range(10_000):
        meter.measure(number, 0, 100.0, None)
        watch.now += 0.01
    assert len(meter._samples) <= 302
