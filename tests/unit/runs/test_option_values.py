"""The option values of a Python program are converted and checked as the command line checks its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import click
import pytest

from config.limits import Bounds
from producer.api import LocalFleet
from producer.cli.parameter_types import Duration
from producer.cli.run_commands import run
from producer.output.run_file import RunConfig
from producer.runs.option_conflicts import checked_run_config
from producer.runs.option_names import named_values
from producer.runs.option_values import checked_options
from producer.sources.options import SourceOptions
from tasks.errors import UsageError
from tasks.image_options import EncodeFormat, ImageFormat, ResizeOptions
from tasks.model import FetchOptions, HeaderOptions, OutputFormat, OutputOptions
from tasks.throttle_options import HostLimit

#: Values of no type that an option could have.
_STRANGE = (object(), b"bytes", {"a": 1}, 1j)


def _options(kind: type[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the type hint of each single option, except those of dataclasses in tuples."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        # A HostLimit checks itself when it is created.
        if hint is HostLimit:
            continue
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _options(hint, (*path, name))
        else:
            yield (*path, name), hint


_OPTIONS = {".".join(path): (path, hint) for path, hint in _options(RunConfig)}


def _with(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """Return options with another value at a path."""
    name, *rest = path
    return replace(config, **{name: _with(getattr(config, name), tuple(rest), value) if rest else value})


def _value(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def _parts(hint: Any) -> Iterator[Any]:
    """Yield a type hint and the hints in it."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _bounds(hint: Any) -> Bounds | None:
    return next((part for each in _parts(hint) for part in getattr(each, "__metadata__", ())), None)


def _enum(hint: Any) -> type[StrEnum] | None:
    return next((each for each in _parts(hint) if isinstance(each, type) and issubclass(each, StrEnum)), None)


@pytest.mark.parametrize("name", [name for name, (_, hint) in _OPTIONS.items() if _enum(hint)])
def test_the_value_of_an_enum_becomes_its_member(name: str) -> None:
    """Each option with named values also takes their strings. Code that compares members then works."""
    path, hint = _OPTIONS[name]
    kind = _enum(hint)
    assert kind is not None
    is_list = name.endswith(("formats", "sidecars"))

    def convert(given: str) -> Any:
        options = _with(RunConfig(), path, [given] if is_list else given)
        return _value(checked_options(options, RunConfig, "it"), path)

    for member in kind:
        found = convert(str(member.value))
        assert (found[0] if is_list else found) is member
    with pytest.raises(UsageError, match=rf"it\.{name}.* can't be .*'zip'") as refused:
        convert("zip")
    assert str(next(iter(kind)).value) in refused.value.why


@pytest.mark.parametrize("name", [name for name, (_, hint) in _OPTIONS.items() if _bounds(hint)])
def test_numbers_have_bounds(name: str) -> None:
    """A number at its bounds is accepted. A number beyond them, infinity, and text are refused."""
    path, hint = _OPTIONS[name]
    bounds = _bounds(hint)
    assert bounds is not None

    def wrap(number: Any) -> Any:
        return (0, number, 0) if name.endswith("background") else number

    is_whole = int in _parts(hint)
    least = int(bounds.least) if is_whole else bounds.least
    greatest = least + 7 if bounds.greatest is None else type(least)(bounds.greatest)
    for number in (least, greatest):
        config = checked_options(_with(RunConfig(), path, wrap(number)), RunConfig, "it")
        assert _value(config, path) == wrap(number)
    beyond: list[Any] = [least - 1, float("inf"), float("nan"), str(least), True]
    beyond += [] if bounds.greatest is None else [greatest + 1]
    for number in beyond:
        with pytest.raises(UsageError, match=rf"it\.{name}"):
            checked_options(_with(RunConfig(), path, wrap(number)), RunConfig, "it")


@pytest.mark.parametrize("name", _OPTIONS)
def test_every_option_refuses_other_types(name: str) -> None:
    """No option takes a value of another type, and the error names the option's field."""
    path, hint = _OPTIONS[name]
    assert checked_options(RunConfig(), RunConfig, "it") == RunConfig()
    strange = [*_STRANGE, *(() if NoneType in get_args(hint) else (None,))]
    for value in [*strange, *(("text",) if get_origin(hint) is tuple else ())]:
        with pytest.raises(UsageError, match=rf"it\.{name}"):
            checked_options(_with(RunConfig(), path, value), RunConfig, "it")


def test_numbers_of_the_command_line_have_the_same_bounds() -> None:
    """Each number of ``producer run`` has the bounds of the library's field for it."""
    names = {path[-1]: name for name, (path, _) in _OPTIONS.items()}
    found = 0
    for option in run.params:
        field, kind = str(option.name), option.type
        if field in ("workers", "concurrency"):
            bounds = _bounds(get_type_hints(LocalFleet, include_extras=True)[field])
        elif field in names:
            bounds = _bounds(_OPTIONS[names[field]][1])
        else:
            continue
        if isinstance(kind, click.IntRange | click.FloatRange):
            assert bounds is not None
            assert (kind.min, kind.max) == (bounds.least, bounds.greatest), field
            found += 1
        elif isinstance(kind, Duration):
            assert bounds is not None
            assert kind.convert(str(bounds.least), None, None) == bounds.least
            with pytest.raises(click.BadParameter):
                kind.convert(str(bounds.least - 0.001), None, None)
            found += 1
    assert found >= 15


_WRONG = {
    "shard_size 0": (RunConfig(shard_size=0), "RunConfig.shard_size can't be 0", "from 1 to 10,000"),
    "negative shard_size": (RunConfig(shard_size=-1), "RunConfig.shard_size can't be -1", "from 1 to 10,000"),
    "wrong dataclass": (FetchOptions(), "RunConfig can't be FetchOptions(", "a RunConfig"),
    "one column as text": (
        RunConfig(source=SourceOptions(columns="id")),  # type: ignore[arg-type]
        "RunConfig.source.columns can't be 'id'",
        "a tuple or a list",
    ),
    "quality off the scale": (
        RunConfig(FetchOptions(resize=ResizeOptions(encode_format=EncodeFormat.PNG, quality=80))),
        "RunConfig.fetch.resize.quality",
        "from 0 to 9",
    ),
    "unknown encoding": (RunConfig(source=SourceOptions(encoding="latin1000")), "source.encoding", "not an encoding"),
    "base_url": (RunConfig(source=SourceOptions(base_url="x y")), "source.base_url", ""),
    "previous run": (RunConfig(previous_run="s3://"), "RunConfig.previous_run", "bucket"),
    "hash without its kind": (RunConfig(source=SourceOptions(hash_col="md5")), "verify_hash need each other", ""),
    "unknown template": (RunConfig(output=OutputOptions(path_template="scrappy")), "output.path_template", "scrapy"),
    "template of a packed run": (
        RunConfig(output=OutputOptions(OutputFormat.PARQUET, path_template="{key}")),
        "--path-template can't be used",
        "saves no files",
    ),
    "two kinds of names": (
        RunConfig(output=OutputOptions(path_template="{key}"), source=SourceOptions(path_col="id")),
        "--path-col and --path-template can't be used together",
        "",
    ),
    "header on two lines": (
        RunConfig(FetchOptions(headers=HeaderOptions(extra=(("Authorization", "s3cr3t\nX: y"),)))),
        "RunConfig.fetch.headers.extra",
        "printable ASCII",
    ),
    "header as a text": (
        RunConfig(FetchOptions(headers=HeaderOptions(extra=("Authorization: s3cr3t",)))),  # type: ignore[arg-type]
        "RunConfig.fetch.headers.extra[0]",
        "",
    ),
}


@pytest.mark.parametrize(("config", "what", "why"), _WRONG.values(), ids=_WRONG)
def test_invalid_options_are_refused(config: object, what: str, why: str) -> None:
    """Invalid options and options that exclude each other are refused. The error names them, but shows no secret."""
    with pytest.raises(UsageError) as refused:
        checked_run_config(config)
    error = refused.value
    assert what in error.what
    assert why in error.why
    assert "s3cr3t" not in f"{error.what} {error.why} {error.hint}"


def test_usual_python_values_are_accepted() -> None:
    """Lists, paths and the name of a template are converted, because a run is recorded as JSON."""
    config = checked_run_config(
        RunConfig(
            FetchOptions(formats=["png"], timeout=5),  # type: ignore[arg-type]
            previous_run=Path("old"),  # type: ignore[arg-type]
            output=OutputOptions("files", path_template="scrapy"),  # type: ignore[arg-type]
        )
    )
    assert config.fetch.formats == (ImageFormat.PNG,)
    assert isinstance(config.fetch.timeout, float)
    assert config.previous_run == "old"
    assert config.output == OutputOptions(OutputFormat.FILES, path_template="full/{url_sha1}")
    assert dict(named_values(config))["--output-format"] is OutputFormat.FILES
