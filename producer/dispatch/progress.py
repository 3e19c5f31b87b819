"""The progress of a run, and the times of its dispatch.

The display, ``producer status``, the log and the Python callback all get the same `Progress`, so their numbers agree.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from producer.dispatch.host_report import HostReport


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a command that works on a run. Images count if they are saved or failed, bytes if they are saved."""

    #: The seconds since the command sent its first task.
    seconds: float = 0.0
    #: The speed during the last seconds.
    images_per_second: float = 0.0
    bytes_per_second: float = 0.0
    #: The speed since the first task.
    average_images_per_second: float = 0.0
    average_bytes_per_second: float = 0.0
    #: The remaining seconds at the present speed; None if they are unknown.
    seconds_left: float | None = None

    @classmethod
    def average(cls, images: int, size: int, seconds: float) -> Self:
        """Return the speed of a command that has finished this many images and bytes."""
        return cls(
            seconds,
            average_images_per_second=images / seconds if seconds else 0.0,
            average_bytes_per_second=size / seconds if seconds else 0.0,
        )


@dataclass(frozen=True, slots=True)
class FleetCondition:
    """The workers of a run, and the hosts that slow the run down. At a broker, other runs may use them too."""

    #: The number of workers that send heartbeats.
    workers: int = 0
    #: The number of workers that have neither stopped nor sent a heartbeat in time.
    lost_workers: int = 0
    #: The hosts that get no requests for some time, or that are probed after that: the first three of them, and the
    #: number of all.
    resting: tuple[HostReport, ...] = ()
    resting_hosts: int = 0
    #: The three slowest of the other hosts, the slowest first.
    slowest: tuple[HostReport, ...] = ()

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Create the value from decoded JSON."""
        hosts = {name: tuple(map(HostReport.from_json, facts[name])) for name in ("resting", "slowest")}
        return cls(**{**facts, **hosts})


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run, in images. ``planned`` grows while ``plan_complete`` is false. JSON can encode the value.

    ``success``, ``failed``, ``bytes`` and ``reasons`` cover the whole run. ``speed`` covers only the current command.
    """

    success: int
    failed: int
    bytes: int
    planned: int
    plan_complete: bool
    #: The number of these images that earlier commands of the run have finished.
    done_before: int = 0
    #: The number of failed images for each reason, the most frequent reason first.
    reasons: Mapping[str, int] = field(default_factory=dict)
    #: An explanation for the user while no image finishes.
    note: str = ""
    #: The number of images still being downloaded after the run was told to end early; None before.
    finishing: int | None = None
    #: The number of images that wait for busy hosts, the host with the most of them, and the number of such hosts.
    waiting: int = 0
    busiest_host: str = ""
    busy_hosts: int = 0
    #: The number of shards in flight, and the number of lost tasks that were sent again.
    shards_in_flight: int = 0
    repaired: int = 0
    speed: Speed = Speed()
    fleet: FleetCondition = FleetCondition()

    @property
    def ended(self) -> int:
        """The number of finished images, saved or failed."""
        return self.success + self.failed

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Create the value from decoded JSON.

        Raises:
            TypeError, KeyError, ValueError: another version has encoded the value.
        """
        return cls(**{**facts, "speed": Speed(**facts["speed"]), "fleet": FleetCondition.from_json(facts["fleet"])})


@dataclass(slots=True)
class Timing:
    """The times, on the monotonic clock, at which the first task was sent and the last manifest was found."""

    first_sent: float = 0.0
    last_done: float = 0.0
    #: The number of images finished between these two times, and the number of these images that were resent.
    images: int = 0
    repaired: int = 0
    #: The size of these images as saved files. It is measured only in a resumed run, because all images of a new run
    #: are those of its command.
    bytes: int = 0

    @property
    def wall_seconds(self) -> float:
        """The seconds from the first task to the last manifest."""
        return self.last_done - self.first_sent

    @property
    def started_at(self) -> float:
        """The time of the first task in seconds since the epoch; 0 if no task was sent."""
        return time.time() - (time.monotonic() - self.first_sent) if self.first_sent else 0.0

    @property
    def finished_at(self) -> float:
        """The time of the last manifest in seconds since the epoch; the current time if no manifest was found."""
        return time.time() - (time.monotonic() - self.last_done if self.last_done else 0.0)
