"""Calculate the resources for a rate, and the disk space for a list, from the cost per image. Measures nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from config import limits
from producer.output.run_file import RunConfig

#: Planned utilisation of a core, from 0 to 1, for workers, Redis and the producer. If a core is busier, long queues
#: form in front of it.
USE = 0.7
HOST_CORES = 16
#: Largest number of slots per worker process.
MOST_SLOTS = 64
#: The number of images in the window, divided by the number of images that workers hold. The number is more than one,
#: because a shard stays in flight until its slowest image is done.
AHEAD = 2
#: Files and folders per shard besides its images: its folder, manifest, stats file and plan.
_ENTRIES = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one image. CPU is in seconds, all other fields are in bytes."""

    worker: float
    producer: float
    redis: float
    picture: float
    redis_traffic: float
    appended: float
    in_flight: float
    manifest: float
    plan: float
    #: Seconds per shard that the summary at the end of the run takes.
    summary: float

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Self:
        """Return the cost from a result of ``benchmarks/scale.py``.

        For Redis, this is the cost per image under the highest load, because the cost per image is lowest then.
        """
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
class Resources:
    """Resources for a download rate. Sizes are in bytes, and traffic is in bytes per second."""

    #: Images downloaded concurrently.
    slots: int
    #: The number of cores for workers, and the number of hosts if each host has `HOST_CORES` cores.
    cores: int
    hosts: int
    #: Worker processes: each can use a whole core, and has at most `MOST_SLOTS` slots.
    processes: int
    redis_servers: int
    producers: int
    #: Shards in flight on all Redis servers together.
    window: int
    redis_memory: float
    downloaded: float
    redis_traffic: float
    appended: float

    @classmethod
    def for_rate(cls, rate: float, latency: float, cost: Cost, shard_size: int) -> Self:
        """Return the resources for a rate.

        Args:
            rate: images per second.
            latency: seconds per download, mostly waiting.
            cost: the cost of one image.
            shard_size: images per shard.
        """
        slots = math.ceil(rate * latency)
        cores = math.ceil(rate * cost.worker / USE)
        window = max(RunConfig().window, math.ceil(AHEAD * slots * (1 + limits.PREFETCH) / shard_size))
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
class ListTotals:
    """Totals of a list of images: the disk space and Redis's traffic in bytes, and the summary's time in seconds."""

    shards: int
    #: The number of files and folders, which is also the number of inodes.
    entries: int
    pictures: float
    manifests: float
    plan: float
    redis_traffic: float
    appended: float
    summary: float

    @classmethod
    def for_images(cls, images: int, cost: Cost, shard_size: int) -> Self:
        """Return the totals for a number of images, if all images are saved."""
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
