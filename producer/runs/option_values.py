"""Check the option values of a Python program, and convert them to the types of the options.

The types and bounds are the annotations of the dataclasses. So the command line and the library have the same bounds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from enum import Enum
from inspect import isclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from config.limits import Bounds
from tasks.errors import UsageError

_Options = TypeVar("_Options")


def checked_options(options: Any, kind: type[_Options], name: str) -> _Options:
    """Return a dataclass of options whose fields have their declared types, also if the program passed strings.

    Args:
        options: the value to check.
        kind: the dataclass that it must be.
        name: its name in error messages.

    Raises:
        UsageError: a value has the wrong type, is unknown, or is out of bounds. The error names its field.
    """
    if not isinstance(options, kind):
        raise _error(name, options, f"it must be a {kind.__name__}")
    hints = get_type_hints(kind, include_extras=True)
    found = {each: checked(getattr(options, each), hint, f"{name}.{each}") for each, hint in hints.items()}
    return kind(**found)


def checked(value: Any, kind: Any, name: str) -> Any:
    """Return a value with the type of an option.

    The string of an enum's member becomes the member, a list becomes a tuple, and a path becomes text.

    Args:
        value: the value to check.
        kind: the type hint of the option.
        name: the option's name in error messages.

    Raises:
        UsageError: the value has the wrong type, is unknown, or is out of bounds.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(checked(value, arguments[0], name), kind.__metadata__[0], name)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        # An optional option has one type besides None.
        return checked(value, next(each for each in arguments if each is not NoneType), name)
    if origin is tuple:
        return tuple(_items(value, arguments, name))
    if is_dataclass(kind) and isclass(kind):
        return checked_options(value, kind, name)
    if issubclass(kind, Enum):
        return checked_member(value, kind, name)
    return _single(value, kind, name)


def checked_member(value: Any, kind: type[Enum], name: str) -> Any:
    """Return the member of an enum for its value.

    Raises:
        UsageError: no member has this value.
    """
    try:
        return kind(value)
    except ValueError:
        raise _error(name, value, f"it must be one of {', '.join(str(member.value) for member in kind)}") from None


def checked_members(values: Any, kind: type[Enum], name: str) -> Collection[Any]:
    """Return the members of an enum for a collection of values.

    Raises:
        UsageError: this is not a collection, or no member has one of the values.
    """
    if isinstance(values, str) or not isinstance(values, Collection):
        raise _error(name, values, "it must be a list")
    return tuple(checked_member(value, kind, name) for value in values)


def _bounded(value: Any, bounds: Bounds, name: str) -> Any:
    if value not in bounds:
        raise _error(name, value, f"it must be {bounds}")
    return value


def _items(value: Any, kinds: tuple[Any, ...], name: str) -> Iterator[Any]:
    """Yield the items of a tuple or list; ``kinds`` are the arguments of the tuple's type hint."""
    if not isinstance(value, tuple | list):
        raise _error(name, value, "it must be a tuple or a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise _error(name, value, f"it must have {len(kinds)} items")
    for number, (item, kind) in enumerate(zip(value, kinds, strict=True)):
        yield checked(item, kind, f"{name}[{number}]")


def _single(value: Any, kind: type[Any], name: str) -> Any:
    """Return a truth value, a number or a text. Numbers of numpy become Python's numbers."""
    if kind is bool:
        if not isinstance(value, bool):
            raise _error(name, value, "it must be True or False")
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise _error(name, value, "it must be a whole number")
        return int(value)
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _error(name, value, "it must be a number")
        return float(value)
    elif isinstance(value, os.PathLike):
        return os.fspath(value)
    elif not isinstance(value, kind):
        raise _error(name, value, "it must be text")
    return value


def _error(name: str, value: Any, why: str) -> UsageError:
    # A header may be a secret.
    shown = f"this {type(value).__name__}" if "headers" in name else f"{value!r:.100}"
    return UsageError(f"{name} can't be {shown}", why, f"Correct {name}.")
