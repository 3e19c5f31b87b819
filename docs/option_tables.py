"""Tables of the option classes of the library call: their fields, types, defaults, command-line options and meanings.

A meaning is the comment above the field. Without a comment, it is the help text of the option on the command line.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from config.limits import Bounds
from producer.cli.run_commands import run
from producer.output.run_file import RunConfig
from producer.runs.option_names import option_name
from producer.sources.options import SourceOptions
from tasks.image_options import FilterOptions, ResizeOptions
from tasks.model import FetchOptions, HeaderOptions, OutputOptions
from tasks.throttle_options import HostLimit, ThrottleOptions

#: The option classes, and the place of each in a `RunConfig`.
CLASSES: dict[type[Any], str] = {
    RunConfig: "",
    FetchOptions: "RunConfig.fetch",
    HeaderOptions: "FetchOptions.headers",
    ThrottleOptions: "FetchOptions.throttle",
    HostLimit: "ThrottleOptions.limit",
    ResizeOptions: "FetchOptions.resize",
    FilterOptions: "FetchOptions.filters",
    SourceOptions: "RunConfig.source",
    OutputOptions: "RunConfig.output",
}
_FIELD = re.compile(r"((?:^    #: .*\n)+)^    (\w+):", re.MULTILINE)
_NAMES: dict[Any, str] = {bool: "truth value", int: "whole number", float: "number", str: "text"}


def options() -> str:
    """Return a table for each option class."""
    parts = []
    for kind, place in CLASSES.items():
        heading = f"### {kind.__name__}\n\n" + (f"In `{place}`.\n\n" if place else "")
        rows = ["| field | type | default | option | meaning |", "|---|---|---|---|---|", *_rows(kind)]
        parts.append(heading + "\n".join(rows) + "\n")
    return "\n" + "\n".join(parts) + "\n"


def _rows(kind: type[Any]) -> Iterator[str]:
    hints = get_type_hints(kind, include_extras=True)
    comments = {name: _text(comment) for comment, name in _FIELD.findall(inspect.getsource(kind))}
    helps = {name: str(getattr(param, "help", None) or "") for param in run.params for name in param.opts}
    for field in fields(kind):
        hint, option = hints[field.name], option_name(field.name)
        if hint in CLASSES:
            link = f"[{hint.__name__}](#{hint.__name__.lower()})"
            meaning = comments.get(field.name) or (hint.__doc__ or "").partition("\n")[0]
            yield f"| `{field.name}` | {link} | its defaults | | {_sentence(meaning)} |"
            continue
        named = f"`{option}`" if option in helps else ""
        meaning = comments.get(field.name) or helps[option].partition("  [")[0]
        yield f"| `{field.name}` | {_type(hint)} | {_default(field)} | {named} | {_sentence(meaning)} |"


def _text(comment: str) -> str:
    return " ".join(line.strip().removeprefix("#:").strip() for line in comment.strip().splitlines())


def _sentence(text: str) -> str:
    return text.replace("``", "`").replace("|", r"\|").rstrip(".") + "."


def _type(hint: Any) -> str:
    """Return a type for a reader, with its bounds or the names of its values."""
    arguments = [part for part in get_args(hint) if part is not NoneType]
    if NoneType in get_args(hint):
        return f"{_type(arguments[0])}, or None"
    if get_origin(hint) is Annotated:
        kind, bounds = arguments
        assert isinstance(bounds, Bounds)
        return f"{_type(kind)}, {bounds}"
    if get_origin(hint) is tuple:
        parts = [_type(part) for part in arguments if part is not Ellipsis]
        if Ellipsis in arguments:
            return f"tuple of any length: {parts[0]}"
        return f"tuple: {f'{len(parts)} times a {parts[0]}' if len(set(parts)) == 1 else ' and '.join(parts)}"
    if hint in CLASSES:
        return str(hint.__name__)
    if issubclass(hint, StrEnum):
        return f"`{hint.__name__}`: {', '.join(f'`{member}`' for member in hint)}"
    return _NAMES[hint]


def _default(field: Field[Any]) -> str:
    value = field.default
    assert value is not MISSING
    if isinstance(value, tuple) and value and isinstance(value[0], StrEnum):
        return ", ".join(f"`{member}`" for member in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"`{value:_}`"
    shown = str(value) if isinstance(value, StrEnum) else repr(value)
    return f"`{shown}`"
