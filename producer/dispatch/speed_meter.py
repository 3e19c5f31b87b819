"""Measure the speed of a run from the growing numbers of its finished images and saved bytes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import NamedTuple

from producer.dispatch.progress import Speed

#: Seconds over which the present speed is averaged.
_PRESENT_SECONDS = 10.0
#: Seconds over which the speed for the remaining time is averaged. A longer time makes a calmer display.
_STEADY_SECONDS = 60.0
#: Seconds between two samples.
_SAMPLE_SECONDS = 0.2


class _Sample(NamedTuple):
    at: float
    images: int
    size: int


class SpeedMeter:
    """Measures the speed of one command."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def measure(self, images: int, size: int, first_sent: float, remaining: int | None) -> Speed:
        """Return the present and the average speed.

        Args:
            images: the number of images finished by this command.
            size: the number of bytes saved by this command.
            first_sent: the time of the first task, in seconds of the monotonic clock; 0 before the first task.
            remaining: the number of images that are not finished; None if it is unknown.
        """
        now = _Sample(time.monotonic(), images, size)
        # If the number decreased, start measuring again. For example, it decreases when Redis is emptied.
        if self._samples and images < self._samples[-1].images:
            self._samples.clear()
        if not self._samples or now.at - self._samples[-1].at >= _SAMPLE_SECONDS:
            self._samples.append(now)
        while now.at - self._samples[0].at > _STEADY_SECONDS:
            self._samples.popleft()
        recent = next(sample for sample in self._samples if now.at - sample.at <= _PRESENT_SECONDS)
        seconds = now.at - recent.at
        steady = _per_second(images - self._samples[0].images, now.at - self._samples[0].at)
        # While no image finishes, the remaining time is unknown.
        stands_still = images == recent.images
        return replace(
            Speed.average(images, size, now.at - first_sent if first_sent else 0.0),
            images_per_second=_per_second(images - recent.images, seconds),
            bytes_per_second=_per_second(size - recent.size, seconds),
            seconds_left=None if stands_still or remaining is None else remaining / steady,
        )


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds else 0.0
