"""Make the tables of ``docs/scale.md`` from the results of ``benchmarks/scale.py`` and ``benchmarks/growth.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.projection import AHEAD, HOST_CORES, MOST_SLOTS, USE, Cost, ListTotals, Resources
from producer.formatting import format_size
from producer.output.run_file import RunConfig

#: The purpose of each of the most frequent commands. Brackets mark commands that the two scripts call.
_PURPOSES = {
    "eval": "take messages and record them as unacknowledged (`tasks/broker/reserve.lua`)",
    "evalsha": "count chord parts (Celery's script)",
    "lpush": "send messages",
    "exec": "acknowledge messages",
    "zrem": "acknowledge messages",
    "hdel": "acknowledge messages",
    "multi": "acknowledge messages",
    "rpop": "(take a message)",
    "hset": "(record a message)",
    "zadd": "(record a message; count a part)",
    "get": "(count a part)",
    "sismember": "(count a part)",
    "sadd": "(count a part)",
    "zcount": "(count a part)",
    "expire": "(count a part, every hundredth)",
}
_RATES = (1_000, 10_000, 100_000)
_LISTS = {"10⁶": 10**6, "10⁸": 10**8, "10¹⁰": 10**10}
#: Seconds per image, mostly spent waiting for its server.
_LATENCY = 0.5
_SHARD_SIZE = RunConfig().shard_size


def redis(result: Mapping[str, Any]) -> str:
    """Return two tables of the cost of one image in Redis: the totals, and the calls of each command."""
    image, downloads = result["image"], result["loads"]["downloads"]
    commands = image["commands"]
    calls = sum(found["calls"] for found in commands.values())
    scripts = commands["eval"]["calls"] + commands["evalsha"]["calls"]
    rows = [
        "| Redis, per image | |",
        "|---|---|",
        f"| round trips | {image['round_trips']:.2f} |",
        f"| commands, including those called by scripts | {calls:.1f} |",
        f"| Lua scripts run | {scripts:.2f} |",
        f"| bytes received, sent | {image['bytes_in']:,.0f} B, {image['bytes_out']:,.0f} B |",
        f"| appended to the append-only file | {image['appended']:,.0f} B |",
        f"| memory while the image is in flight | {image['in_flight']:,} B |",
        f"| CPU of the main thread, at {downloads['redis_share']:.0%} of a core | {downloads['redis_us']:.0f} µs |",
        "",
        "| command | calls | µs | purpose |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| `{name.upper()}` | {commands[name]['calls']:.2f} | {commands[name]['microseconds']:.1f} | {purpose} |"
        for name, purpose in _PURPOSES.items()
        if name in commands
    ]
    fleet, machine = result["fleet"], result["machine"]
    rows += [
        "",
        f"Measured in {result['repeat']} runs of {result['images']:,} images of {format_size(image['picture'])} from "
        "nginx. The scripts call the commands whose purpose is in brackets, and a script's time includes these "
        f"commands. {_fleet(fleet)}, Redis, producer and nginx shared "
        f"{machine['cores']} cores ({machine['cpu']}). Each worker process holds {image['connections_per_worker']} "
        "connections to Redis.",
    ]
    return "\n".join(rows) + "\n"


def loads(result: Mapping[str, Any]) -> str:
    """Return the table of Redis's load, with the rate that Redis could reach if it used a whole core."""
    rows = [
        "| load | images/s | Redis's share of a core | Redis's CPU per image | rate if Redis used a whole core |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {load['images_per_second']:,.0f} | {load['redis_share']:.0%} | {load['redis_us']:.0f} µs "
        f"| {1e6 / load['redis_us']:,.0f} images/s |"
        for name, load in result["loads"].items()
    ]
    return "\n".join(rows) + "\n"


def growth(result: Mapping[str, Any]) -> str:
    """Return the table of the cost and the memory for each list length, and of the growth of both."""
    rows = [
        "| images | images/s | CPU per image: workers, Redis, producer | memory: producer | Redis, allocated "
        "| workers |",
        "|---|---|---|---|---|---|",
    ]
    sizes = {int(images): row for images, row in result["sizes"].items()}
    for images, row in sizes.items():
        cpu, peak = row["cpu_us_per_image"], row["peak_mib"]
        split = ", ".join(f"{cpu[role]:,.0f}" for role in ("workers", "redis", "producer"))
        rows.append(
            f"| {images:,} | {row['images_per_second']['median']:,.0f} | {sum(cpu.values()):,.0f} µs: {split} "
            f"| {peak['producer']:,.0f} MiB | {peak['redis']:,.0f} MiB, {row['redis_allocated_mib']:.1f} MiB "
            f"| {peak['workers']:,.0f} MiB |"
        )
    rows += [
        "",
        *_ratios(sizes),
        "",
        f"{_fleet(result['fleet'])}; {result['machine']['cores']} cores for all processes.",
    ]
    return "\n".join(rows) + "\n"


def _ratios(sizes: Mapping[int, Mapping[str, Any]]) -> list[str]:
    if len(sizes) < 2:
        return []
    least, (before, most) = min(sizes), sorted(sizes)[-2:]
    cost = {images: sum(sizes[images]["cpu_us_per_image"].values()) for images in (least, most)}
    memory = {
        "the producer": sizes[most]["peak_mib"]["producer"] / sizes[before]["peak_mib"]["producer"],
        "Redis (allocated)": sizes[most]["redis_allocated_mib"] / sizes[before]["redis_allocated_mib"],
    }
    changes = ", ".join(f"{name} {_change(ratio)}" for name, ratio in memory.items())
    return [
        f"From {least:,} to {most:,} images, the CPU per image changes by {_change(cost[most] / cost[least])}. "
        f"From {before:,} to {most:,} images, memory changes as follows: {changes}."
    ]


def rates(result: Mapping[str, Any]) -> str:
    """Return the table of the resources that each download rate needs."""
    cost = Cost.from_result(result)
    needed = {rate: Resources.for_rate(rate, _LATENCY, cost, _SHARD_SIZE) for rate in _RATES}
    rows = ["| images/s | " + " | ".join(f"{rate:,}" for rate in _RATES) + " |", "|---" * (len(_RATES) + 1) + "|"]
    for label, images in _LISTS.items():
        rows.append(_line(f"{label} images take", [_duration(images / rate) for rate in _RATES]))
    facts = {
        f"slots, at {_LATENCY} s per image": [f"{found.slots:,}" for found in needed.values()],
        f"worker processes, at most {MOST_SLOTS} slots each": [f"{found.processes:,}" for found in needed.values()],
        f"cores for these processes; hosts of {HOST_CORES} cores": [
            f"{found.cores:,}; {found.hosts:,}" for found in needed.values()
        ],
        "Redis servers, one core each": [f"{found.redis_servers:,}" for found in needed.values()],
        "producers, one core each": [f"{found.producers:,}" for found in needed.values()],
        "window, shards in flight": [f"{found.window:,}" for found in needed.values()],
        "memory of all Redis servers": [format_size(found.redis_memory) for found in needed.values()],
        "network of all Redis servers": [_bits(found.redis_traffic) for found in needed.values()],
        "written by all Redis servers": [f"{format_size(found.appended)}/s" for found in needed.values()],
        f"downloaded, at {format_size(cost.picture)} per image": [_bits(found.downloaded) for found in needed.values()],
    }
    rows += [_line(label, values) for label, values in facts.items()]
    rows += [
        "",
        f"The estimates assume that each core is used to {USE:.0%}. For each image that a worker has in a "
        f"slot or has reserved, the window holds {AHEAD} images. It never holds less than the default of eight shards.",
    ]
    return "\n".join(rows) + "\n"


def lists(result: Mapping[str, Any]) -> str:
    """Return the table of the amounts of data for each list length."""
    cost = Cost.from_result(result)
    left = [ListTotals.for_images(images, cost, _SHARD_SIZE) for images in _LISTS.values()]
    rows = ["| images | " + " | ".join(_LISTS) + " |", "|---" * (len(_LISTS) + 1) + "|"]
    facts = {
        "shards and manifests": [f"{found.shards:,}" for found in left],
        "files and folders (inodes)": [f"{found.entries:,}" for found in left],
        f"images, at {format_size(cost.picture)}": [format_size(found.pictures) for found in left],
        "manifests": [format_size(found.manifests) for found in left],
        "plan": [format_size(found.plan) for found in left],
        "through Redis, both ways": [format_size(found.redis_traffic) for found in left],
        "appended to append-only files of Redis, and compacted again": [format_size(found.appended) for found in left],
        "reading the manifests at the end": [_duration(found.summary) for found in left],
    }
    rows += [_line(label, values) for label, values in facts.items()]
    return "\n".join(rows) + "\n"


def _line(label: str, values: list[str]) -> str:
    return f"| {label} | {' | '.join(values)} |"


def _fleet(fleet: Mapping[str, int]) -> str:
    return f"{fleet['workers']} worker processes with {fleet['concurrency']} slots each"


def _change(ratio: float) -> str:
    return f"{ratio - 1:+.1%}"


def _bits(bytes_a_second: float) -> str:
    return f"{bytes_a_second * 8 / 1e9:.2f} Gbit/s"


def _duration(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes, hours or days."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 72 * 3600)):
        if seconds < most:
            return f"{seconds / length:.{0 if seconds / length >= 10 else 1}f} {unit}"
    return f"{seconds / 86400:,.0f} days"
