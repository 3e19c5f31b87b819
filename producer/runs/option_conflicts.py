"""Check the values of options that depend on a format or on another option, before a run starts anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from config.locations import parse_location
from producer.output.run_file import RunConfig
from producer.planning.file_paths import check_name_options
from producer.planning.path_template import parse_template
from producer.runs.option_values import checked_options
from producer.sources.encoding import check_encoding
from producer.sources.options import SourceOptions
from producer.sources.requests import url_completer
from tasks.download.headers import checked_header, checked_value
from tasks.errors import InvalidUrlError, UsageError
from tasks.model import HeaderOptions

_Result = TypeVar("_Result")


def checked_run_config(config: object) -> RunConfig:
    """Return the options of a Python program for a run, checked as the command line checks its options.

    Strings become enum members, and the name of a path template becomes the template.

    Raises:
        UsageError: a value is invalid, or two options can't be used together. The error names the field.
    """
    options = checked_options(config, RunConfig, "RunConfig")
    _named("fetch.resize.quality", options.fetch.resize.check_quality)
    _check_source(options.source)
    previous = options.previous_run
    if previous is not None:
        _named("previous_run", lambda: parse_location(previous))
    headers = _checked_headers(options.fetch.headers)
    template = options.output.path_template
    if template is not None:
        text = template
        template = _named("output.path_template", lambda: parse_template(text))
    options = replace(
        options,
        fetch=replace(options.fetch, headers=headers),
        output=replace(options.output, path_template=template),
    )
    check_name_options(options)
    return options


def _check_source(options: SourceOptions) -> None:
    encoding, base = options.encoding, options.base_url
    if encoding is not None:
        _named("source.encoding", lambda: check_encoding(encoding))
    if base is not None:
        _named("source.base_url", lambda: url_completer(base))
    if (options.hash_col is None) != (options.verify_hash is None):
        raise UsageError(
            "RunConfig.source.hash_col and RunConfig.source.verify_hash need each other",
            "one of them is None",
            "Give both, or neither.",
        )


def _checked_headers(options: HeaderOptions) -> HeaderOptions:
    agent, referer = options.user_agent, options.referer
    return HeaderOptions(
        None if agent is None else _named("fetch.headers.user_agent", lambda: checked_value(agent)),
        None if referer is None else _named("fetch.headers.referer", lambda: checked_value(referer)),
        _named("fetch.headers.extra", lambda: tuple(checked_header(*header) for header in options.extra)),
    )


def _named(name: str, check: Callable[[], _Result]) -> _Result:
    """Return the result of a check; an error gets the name of the field."""
    try:
        return check()
    except (ValueError, InvalidUrlError) as error:
        raise UsageError(f"RunConfig.{name} can't be used", str(error), f"Correct RunConfig.{name}.") from error
