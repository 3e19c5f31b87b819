"""PROTOCOL is the number of the format of messages and records in Redis. The format changes only with the number."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from tasks import model
from tasks.celery import IMAGE_QUEUE, PROTOCOL, SHARD_QUEUE, app
from tasks.jobs import collect_shard, fetch_image

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_ARRAYS = (list, tuple, Collection)
_OBJECTS = (dict, Mapping)


def _kind(annotation: Any) -> str:
    """Return the JSON form of a value of this type, with everything nested in it.

    This form leaves out the names of classes, because they are not part of a message.

    Raises:
        TypeError: the type has no kind here.
    """
    if annotation is Any:
        return "any"
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        members = sorted(f"{item.name}: {_kind(hints[item.name])}" for item in fields(annotation))
        return f"{{{', '.join(members)}}}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return f"({' | '.join(sorted(repr(str(item)) for item in annotation))})"
    origin, arguments = get_origin(annotation), [item for item in get_args(annotation) if item is not ...]
    inner = [_kind(item) for item in arguments]
    if origin in (UnionType, Union):
        return " | ".join(sorted(inner))
    if origin in _ARRAYS:
        return f"[{', '.join(inner)}]"
    if origin in _OBJECTS:
        return f"{{{': '.join(inner)}}}"
    raise TypeError(f"{annotation} has no kind: add its form in JSON here")


def _values() -> list[type]:
    """Return the types of the values sent through Redis. These types have a `to_json`.

    Other types are nested in them.
    """
    return [item for item in vars(model).values() if is_dataclass(item) and hasattr(item, "to_json")]  # type: ignore[misc]


def _arguments(task: Any) -> str:
    """Return a task's arguments, with a question mark after each optional argument."""
    hints = get_type_hints(task.run)
    return ", ".join(
        f"{name}{'' if parameter.default is parameter.empty else '?'}: {_kind(hints[name])}"
        for name, parameter in inspect.signature(task.run).parameters.items()
    )


def test_format_changes_together_with_its_number() -> None:
    """Each change of the format changes the digest below. The change also needs the next number as PROTOCOL."""
    lines = sorted(
        [
            *map(_kind, _values()),
            # `fetch_image` returns an Outcome, and `collect_shard` returns None.
            *(f"{task.name}({_arguments(task)})" for task in (fetch_image, collect_shard)),
        ]
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]
    assert (PROTOCOL, digest) == (12, "fc5a7823"), (
        f"the format of messages has changed: raise PROTOCOL, then put {digest} here:\n" + "\n".join(lines)
    )


def test_queues_carry_the_number() -> None:
    """Each queue has the number in its name, so no worker gets a message of another format."""
    assert {queue.name for queue in app.conf.task_queues} == {IMAGE_QUEUE, SHARD_QUEUE}
    assert all(name.endswith(f".{PROTOCOL}") for name in (IMAGE_QUEUE, SHARD_QUEUE))


def test_finds_all_values_in_redis() -> None:
    """The test finds a run's options, an Outcome, the facts of a previous image, and everything nested in them."""
    assert len(_values()) == 3
    formats = " ".join(map(_kind, _values()))
    for nested in ("user_agent: null | string", "quality: integer", "('decode' | 'header')", "[[string, string]]"):
        assert nested in formats


class _Shade(StrEnum):
    LIGHT = "light"


@dataclass
class _Inner:
    shade: _Shade = _Shade.LIGHT


@dataclass
class _Outer:
    inner: _Inner
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass
class _Renamed:
    pairs: tuple[tuple[str, str], ...]
    inner: _Inner | None


def test_format_of_a_value_includes_nested_values() -> None:
    """Fields, types and enum values at every depth affect the digest.

    Class names and the order of fields do not affect the digest.
    """
    assert _kind(_Outer) == "{inner: {shade: ('light')}, pairs: [[string, string]]}"
    assert _kind(_Renamed) == "{inner: null | {shade: ('light')}, pairs: [[string, string]]}"


def test_type_without_a_kind_is_refused() -> None:
    """A field of an unknown type can't cross Redis unnoticed."""
    with pytest.raises(TypeError, match="has no kind"):
        _kind(set[str])
