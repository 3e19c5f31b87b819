"""Compare the options of two runs, and name the differences by the options of `producer run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from producer.output.run_file import RunConfig

#: Fields and, for each, the differing name of its option of `producer run`. All other fields have the same names as
#: their options.
_NAMES = {
    "previous_run": "--refresh-from",
    "mode": "--resize",
    "extra": "--header",
    "format": "--output-format",
    "sidecars": "--sidecar",
    "header": "--no-header",
    "concurrency": "--per-host-concurrency",
    "rate": "--per-host-rate",
    "scope": "--per",
    "overrides": "--host-limits",
}
#: Options that only a call from Python can set.
LIBRARY_ONLY = frozenset({"--backoff", "--max-pixels"})


def differing_options(wanted: RunConfig, found: RunConfig) -> list[str]:
    """Return the options of `producer run` that differ between two runs."""
    before = dict(named_values(found))
    return [name for name, value in named_values(wanted) if value != before[name]]


def named_values(options: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each single option in a dataclass of options."""
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value):
            yield from named_values(value)
        else:
            yield option_name(item.name), value


def option_name(field: str) -> str:
    """Return the option of `producer run` for a field of a run's options."""
    return _NAMES.get(field, f"--{field.replace('_', '-')}")
