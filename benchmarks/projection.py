"""What a rate needs and what a list leaves, reckoned from what one image costs. Pure arithmetic, no measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from config import bounds
from producer.runfile import Options

#: How much of a core is counted on, of workers, Redis and producer alike: queues in front of a busy core grow long.
USE = 0.7
HOST_CORES = 16
#: Slots that one worker process is given at most.
MOST_SLOTS = 64
#: Images in the window for each that the workers hold: a shard in flight is only as full as its slowest image.
AHEAD = 2
#: What a shard leaves besides its images: its folder, manifest, stats file and plan.
_ENTRIES = 4


@dataclass(frozen=True)
class Cost:
    """What one image costs: CPU in seconds, the rest in bytes."""

    worker: float
    producer: float
    redis: float
    picture: float
    redis_traffic: float
    appended: float
    in_flight: float
    manifest: float
    plan: float
    #: Seconds for each shard, once, at the end.
    summary: float

    @classmethod
    def measured(cls, result: Mapping[str, Any]) -> Self:
        """Return what ``benchmarks/scale.py`` measured; Redis as busy as it became, where it costs least."""
        image, loads = result["image"], result["loads"].values()
        return cls(
            worker=image["worker_us"] / 1e6,
            producer=image["producer_us"] / 1e6,
            redis=max(loads, key=lambda load: load["redis_share"])["redis_us"] / 1e6,
            picture=image["picture"],
            redis_traffic=image["bytes_in"] + image["bytes_out"],
            appended=image["appended"],
            in_flight=image["in_flight"],
            manifest=image["manifest"],
            plan=image["plan"],
            summary=image["summary_ms_per_shard"] / 1e3,
        )


@dataclass(frozen=True)
class Needed:
    """What images at a rate need; sizes in bytes, or bytes a second."""

    #: Images under way at once.
    slots: int
    #: Of workers, and the hosts that have them.
    cores: int
    hosts: int
    #: Of workers: one can fill a core, and has `MOST_SLOTS` slots at most.
    processes: int
    redis_servers: int
    producers: int
    #: Shards in flight, over all Redis servers.
    window: int
    redis_memory: float
    downloaded: float
    redis_traffic: float
    appended: float

    @classmethod
    def at(cls, rate: float, latency: float, cost: Cost, shard_size: int) -> Self:
        """Return what a rate needs.

        Args:
            rate: images a second.
            latency: seconds that an image is under way, most of which are waiting.
            cost: of an image.
            shard_size: images of a shard.
        """
        slots = math.ceil(rate * latency)
        cores = math.ceil(rate * cost.worker / USE)
        window = max(Options().window, math.ceil(AHEAD * slots * (1 + bounds.PREFETCH) / shard_size))
        return cls(
            slots=slots,
            cores=cores,
            hosts=math.ceil(cores / HOST_CORES),
            processes=max(cores, math.ceil(slots / MOST_SLOTS)),
            redis_servers=math.ceil(rate * cost.redis / USE),
            producers=math.ceil(rate * cost.producer / USE),
            window=window,
            redis_memory=window * shard_size * cost.in_flight,
            downloaded=rate * cost.picture,
            redis_traffic=rate * cost.redis_traffic,
            appended=rate * cost.appended,
        )


@dataclass(frozen=True)
class Left:
    """What a list of images leaves on the disk, and what of it went through Redis; in bytes and seconds."""

    shards: int
    #: Files and folders: inodes.
    entries: int
    pictures: float
    manifests: float
    plan: float
    redis_traffic: float
    appended: float
    summary: float

    @classmethod
    def by(cls, images: int, cost: Cost, shard_size: int) -> Self:
        """Return what so many images leave, all of them saved."""
        shards = math.ceil(images / shard_size)
        return cls(
            shards=shards,
            entries=images + _ENTRIES * shards,
            pictures=images * cost.picture,
            manifests=images * cost.manifest,
            plan=images * cost.plan,
            redis_traffic=images * cost.redis_traffic,
            appended=images * cost.appended,
            summary=shards * cost.summary,
        )
