"""Read a file with limits for single hosts.

The file is TOML with a table for each host::

    ["upload.wikimedia.org"]
    concurrency = 2
    rate = 10.0

A table covers the host and its subdomains. A missing value is the limit of the command.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UsageError
from tasks.throttle_options import HostLimit

_EXAMPLE = 'Write a table for each host, such as ["images.example.org"] with `concurrency = 2` and `rate = 10.0`.'


def read_host_limits(path: Path, default: HostLimit) -> tuple[tuple[str, HostLimit], ...]:
    """Return the limits in a file, by the host's name.

    Args:
        path: the file.
        default: gives the values that a table does not name.

    Raises:
        UsageError: the file can't be read, or a value in it is invalid.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"The host limits {path} can't be read", why, "Give the path of a TOML file.") from error
    except ValueError as error:
        raise UsageError(f"The host limits {path} can't be read", str(error), _EXAMPLE) from error
    return tuple((_host(name, path), _limit(name, table, default, path)) for name, table in tables.items())


def _host(name: str, path: Path) -> str:
    host = name.lower().rstrip(".")
    if not host or any(character in host for character in "/@ ") or "://" in host:
        raise UsageError(
            f"The host limits {path} can't be used",
            f"{name!r} is not a host name",
            "Give the name alone, without https:// and without a path.",
        )
    return host


def _limit(name: str, table: Any, default: HostLimit, path: Path) -> HostLimit:
    # A host name without quotes is a nested table, such as [upload.wikimedia.org].
    if not isinstance(table, Mapping) or any(isinstance(value, Mapping) for value in table.values()):
        raise UsageError(
            f"The host limits {path} can't be used",
            f"{name!r} is not a table with limits; perhaps the host's name has no quotation marks",
            _EXAMPLE,
        )
    if unknown := set(table) - {"concurrency", "rate"}:
        raise UsageError(
            f"The host limits {path} can't be used",
            f"the table of {name} has an unknown value: {', '.join(sorted(unknown))}",
            "A table may have `concurrency` and `rate`.",
        )
    concurrency, rate = table.get("concurrency", default.concurrency), table.get("rate", default.rate)
    try:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise ValueError(f"concurrency is not a whole number: {concurrency!r}")
        if isinstance(rate, bool) or not isinstance(rate, int | float | None):
            raise ValueError(f"rate is not a number: {rate!r}")
        return HostLimit(concurrency, rate)
    except ValueError as error:
        raise UsageError(f"The host limits {path} can't be used", f"{name}: {error}", _EXAMPLE) from error
