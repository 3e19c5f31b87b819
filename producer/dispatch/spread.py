"""Spread the images of each host over a shard, so that a list that is sorted by host does not wait for one host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tasks.model import ImageRequest


def spread_hosts(placed: Sequence[tuple[int, ImageRequest]]) -> list[tuple[int, ImageRequest]]:
    """Return the requests in an order in which each host has its images at equal distances.

    A host's images keep their order. If k of a host's n images come before an image, the image goes to the place
    (k + offset) / n of the shard. The offset differs between hosts, so that hosts with few images are spread, too.

    Args:
        placed: pairs of a place and a request.
    """
    hosts = [_host(request.url) for _, request in placed]
    totals = Counter(hosts)
    if len(totals) == 1:
        return list(placed)
    before = {host: rank / len(totals) for rank, host in enumerate(totals)}
    shares = []
    for host in hosts:
        shares.append(before[host] / totals[host])
        before[host] += 1
    return [placed[number] for number in sorted(range(len(placed)), key=shares.__getitem__)]


def _host(url: str) -> str:
    """Return the host and port of a URL. A text that is not a URL counts as a host."""
    return url.partition("://")[2].partition("/")[0]
