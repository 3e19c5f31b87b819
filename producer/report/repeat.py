"""Write the command that repeats a run, from the options in ``run.json``. Secrets are masked."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from producer.output.run_file import RunConfig, RunFile, State
from producer.runs.option_names import LIBRARY_ONLY, named_values
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
    words = ["producer", "run", source, "--out", _ANOTHER, *_options(record.options), *record.broker_words]
    return _shell_command(words)


def failures_command(record: RunFile) -> str:
    """Return the shell command that shows all failed images of the run."""
    return _shell_command(["producer", "failures", record.out])


def continuation_command(record: RunFile) -> str:
    """Return the shell command that continues an incomplete run, or downloads the failed images of a complete run."""
    name = "retry" if record.state is State.COMPLETE else "resume"
    return _shell_command(["producer", name, record.out, *record.broker_words])


def lost_options(record: RunFile) -> list[str]:
    """Return the options of the run whose values `repeat_command` can't show."""
    given = _changed(record.options)
    return [name for name in ("--header", "--host-limits") if name in given]


def library_options(record: RunFile) -> list[str]:
    """Return the options of the run that no command has. A call from Python can set them."""
    return [name.removeprefix("--").replace("-", "_") for name in _changed(record.options) if name in LIBRARY_ONLY]


def _options(config: RunConfig) -> Iterator[str]:
    """Yield the words of all options that differ from their defaults."""
    for name, value in _changed(config).items():
        if value is None or name in LIBRARY_ONLY:
            # A command can't set an option to None if its default is another value.
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
            yield from (name, str(int(value) if isinstance(value, float) and value.is_integer() else value))


def _shell_command(words: Iterable[str]) -> str:
    """Return a command. Each word is redacted by itself, because a masked value extends to the end of its text."""
    return shlex.join(map(redacted, words))


def _changed(config: RunConfig) -> Mapping[str, Any]:
    """Return the options of `producer run` that differ from their defaults, with their values."""
    usual = dict(named_values(RunConfig()))
    return {name: value for name, value in named_values(config) if value != usual[name]}
