"""The options of a run for its hosts: how many requests each host gets at once and per second. No I/O.

The values are frozen, and JSON can encode them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Protocol, Self

from config import limits
from tasks.image_options import known_fields


class Target(Protocol):
    """The server that a request goes to, as in `tasks.download.urls.Url`."""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""

    @property
    def host(self) -> str:
        """The host name or address."""

    @property
    def port(self) -> int:
        """The port."""


class HostScope(StrEnum):
    """What a limit counts the requests of."""

    #: The name that a request connects to, such as ``upload.wikimedia.org``.
    HOST = "host"
    #: The registrable domain of this name, such as ``wikimedia.org``.
    DOMAIN = "domain"
    #: The address that a request connects to. Many names may share an address.
    IP = "ip"


class RobotsPolicy(StrEnum):
    """Whether a run asks each host's robots.txt before it downloads an image."""

    IGNORE = "ignore"
    OBEY = "obey"


@dataclass(frozen=True, slots=True)
class HostLimit:
    """How many requests one host gets from the whole fleet.

    Raises:
        ValueError: the limit allows no request at all.
    """

    #: Maximum number of open requests; at least 1.
    concurrency: Annotated[int, limits.HOST_CONCURRENCY] = 16
    #: Maximum number of requests per second, above 0; None for no maximum.
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"a host needs at least one request at once, not {self.concurrency}")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"a host's rate must be above 0 requests per second, not {self.rate}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the limit from decoded JSON. Fields unknown to this version are dropped."""
        return cls(**known_fields(cls, value))


@dataclass(frozen=True, slots=True)
class ThrottleOptions:
    """How a run treats the hosts of its images."""

    #: The limit of each host without an override.
    limit: HostLimit = HostLimit()
    scope: HostScope = HostScope.HOST
    #: The limits of single hosts, by a name in lower case or an address.
    overrides: tuple[tuple[str, HostLimit], ...] = ()
    #: Whether a host gets fewer requests, or none for a time, if it refuses requests, fails or becomes slow.
    adaptive: bool = True
    robots: RobotsPolicy = RobotsPolicy.IGNORE

    def limit_for(self, name: str, port: int) -> HostLimit:
        """Return the limit for a host's name or address, and its port.

        An override for a name also covers the subdomains of this name. If several overrides cover the host, the
        longest name decides. An override for a name with a port, such as ``a.example:8080``, covers only this port,
        and comes before an override for the name alone.
        """
        if not self.overrides:
            return self.limit
        limits = dict(self.overrides)
        covered = name.lower().rstrip(".")
        while covered:
            for key in (f"{covered}:{port}", covered):
                if key in limits:
                    return limits[key]
            covered = covered.partition(".")[2]
        return self.limit

    def slowed(self, name: str, port: int, rate: float) -> Self:
        """Return the options with at most this rate for one port of a host, in requests per second."""
        limit = self.limit_for(name, port)
        if limit.rate is not None and limit.rate <= rate:
            return self
        key = f"{name.lower().rstrip('.')}:{port}"
        return replace(self, overrides=(*self.overrides, (key, replace(limit, rate=rate))))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options from decoded JSON. Fields unknown to this version are dropped."""
        known = known_fields(cls, value)
        if "limit" in known:
            known["limit"] = HostLimit.from_json(known["limit"])
        if "scope" in known:
            known["scope"] = HostScope(known["scope"])
        if "overrides" in known:
            known["overrides"] = tuple((name, HostLimit.from_json(limit)) for name, limit in known["overrides"])
        if "robots" in known:
            known["robots"] = RobotsPolicy(known["robots"])
        return cls(**known)
