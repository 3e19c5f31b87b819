"""Write the command that repeats a run, from the options in ``run.json``. Secrets are masked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from producer.output.run_file import RunConfig, RunFile
from producer.runs.option_names import named_values
from producer.sources import url_list
from tasks.redaction import redacted

#: The folder that the command names, because a run needs a folder of its own.
_ANOTHER = "ANOTHER_FOLDER"
#: Options whose values are texts that the command takes separated by commas. Other lists are repeated options.
_SEPARATED = frozenset({"--formats", "--sidecar"})
#: Options that are on by default, and options that are called by their negation anyway.
_NEGATIONS = {"--adaptive": "--no-adaptive", "--no-header": "--no-header"}


def repeat_command(record: RunFile) -> str:
    """Return a shell command that downloads the run's list with the same options into another folder."""
    source = url_list.shown(record.source)
    words = ["producer", "run", source, "--out", _ANOTHER, *_options(record.options)]
    return shlex.join(words)


def lost_options(record: RunFile) -> list[str]:
    """Return the options of the run whose values `repeat_command` can't show."""
    given = _changed(record.options)
    return [name for name in ("--header", "--host-limits") if name in given]


def _options(config: RunConfig) -> Iterator[str]:
    """Yield the words of all options that differ from their defaults."""
    for name, value in _changed(config).items():
        if value is None:
            # The option's default is not None, so it can't be set to None by a command.
            continue
        if isinstance(value, bool):
            yield name if value else _NEGATIONS.get(name, name)
        elif name == "--header":
            for header, _ in value:
                yield from (name, f"{header}:***")
        elif name == "--host-limits":
            yield from (name, "FILE")
        elif name == "--background":
            yield from (name, "#{:02x}{:02x}{:02x}".format(*value))
        elif name in _SEPARATED:
            yield from (name, ",".join(map(str, value)))
        elif isinstance(value, tuple):
            for item in value:
                yield from (name, str(item))
        else:
            yield from (name, redacted(f"{value:g}" if isinstance(value, float) else str(value)))


def _changed(config: RunConfig) -> Mapping[str, Any]:
    """Return the options of `producer run` that differ from their defaults, with their values."""
    usual = dict(named_values(RunConfig()))
    return {name: value for name, value in named_values(config) if value != usual[name]}
