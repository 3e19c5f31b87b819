"""The options for the limits per host, and their conversion to a run's `ThrottleOptions`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cloup

from config import limits
from producer.cli.parameter_types import int_range
from tasks.throttle_options import HostLimit, HostScope, RobotsPolicy, ThrottleOptions

_limit = HostLimit()
_defaults = ThrottleOptions()


@dataclass(frozen=True, slots=True)
class ThrottleParameters:
    """The values of the options for the limits per host."""

    per_host_concurrency: int
    per_host_rate: float | None
    per: str
    host_limits: Path | None
    adaptive: bool
    robots: str

    def throttle_options(self) -> ThrottleOptions:
        """Return the limits per host.

        Raises:
            UsageError: the file of `--host-limits` can't be used.
        """
        limit = HostLimit(self.per_host_concurrency, self.per_host_rate)
        overrides: tuple[tuple[str, HostLimit], ...] = ()
        if self.host_limits is not None:
            from producer.host_limits import read_host_limits

            overrides = read_host_limits(self.host_limits, limit)
        return ThrottleOptions(limit, HostScope(self.per), overrides, self.adaptive, RobotsPolicy(self.robots))


THROTTLE_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    cloup.option_group(
        "Limits per host",
        click.option(
            "--per-host-concurrency",
            type=int_range(limits.HOST_CONCURRENCY),
            default=_limit.concurrency,
            show_default=True,
            help="Maximum number of open requests to one host, from all workers together.",
        ),
        click.option(
            "--per-host-rate",
            type=click.FloatRange(0, min_open=True),
            metavar="NUMBER",
            help="Maximum number of requests to one host per second, from all workers together.  [default: no maximum]",
        ),
        click.option(
            "--per",
            type=click.Choice([scope.value for scope in HostScope]),
            default=_defaults.scope.value,
            show_default=True,
            help="What a limit counts for: the host name in the URL, its registrable domain (example.org for "
            "images.example.org), or its IP address.",
        ),
        click.option(
            "--host-limits",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A TOML file with other limits for some hosts.",
        ),
        click.option(
            "--adaptive/--no-adaptive",
            default=_defaults.adaptive,
            show_default=True,
            help="Send a host fewer requests if it is slow, and none for some time if it refuses requests (429, 503) "
            "or does not answer.",
        ),
        click.option(
            "--robots",
            type=click.Choice([policy.value for policy in RobotsPolicy]),
            default=_defaults.robots.value,
            show_default=True,
            help="obey: fetch each host's robots.txt once, and download no image that it forbids to the User-Agent. "
            "ignore: do not fetch it.",
        ),
    ),
)
