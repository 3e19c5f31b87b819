"""The columns of JSON objects: their names, their types, and how to treat values of other types.

The first rows decide the type of a column: numbers, truth values, text, or lists and objects of these types. A
column is text if its values have several types, or if it has no values. In a text column, a value that is not text is
written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

#: Nested values have columns and types down to this depth. Deeper values are text. Python's stack limits the depth too.
_MAX_DEPTH = 16
_INT64 = range(-(2**63), 2**63)


class MisfitError(ValueError):
    """A value does not have its column's type."""


def column_names(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of all columns. A nested field is named by its path, such as ``image.url``."""
    names: dict[str, None] = {}
    for value in objects:
        names.update(dict.fromkeys(_paths(value)))
    return list(names)


def _paths(value: Mapping[str, Any], depth: int = 1) -> Iterator[str]:
    for name, item in value.items():
        yield name
        if isinstance(item, dict) and depth < _MAX_DEPTH:
            yield from (f"{name}.{path}" for path in _paths(item, depth + 1))


def getter(name: str) -> Callable[[Any], Any]:
    """Return a function that takes an object and returns its value in a column, or None."""
    head, dot, rest = name.partition(".")
    if not dot:
        return lambda value: value.get(name)

    def get(value: Any) -> Any:
        if name in value:
            return value[name]
        for part in (head, *rest.split(".")):
            if not isinstance(value, dict):
                return None
            value = value.get(part)
        return value

    return get


def infer_type(values: list[Any]) -> pa.DataType:
    """Return the type of a column with these values."""
    # Arrow's own function is recursive, and overflows the stack.
    if _is_too_deep(values):
        return pa.string()
    try:
        kind = _without_empty_types(pa.infer_type(values, None))  # type: ignore[arg-type]  # a mistake of the stubs
        # Arrow does not notice some values of other types.
        convert = converter(kind)
        for value in values:
            if value is not None:
                convert(value)
        return kind
    except (pa.ArrowException, MisfitError, OverflowError):
        return pa.string()


def _is_too_deep(values: Iterable[Any]) -> bool:
    """Return whether one of the values is nested too deeply for a type."""
    level = [value for value in values if isinstance(value, dict | list)]
    for _ in range(_MAX_DEPTH):
        children = (item for value in level for item in (value.values() if isinstance(value, dict) else value))
        level = [item for item in children if isinstance(item, dict | list)]
    return bool(level)


def _without_empty_types(kind: pa.DataType, depth: int = 1) -> pa.DataType:
    """Return a type that Parquet can store.

    Raises:
        MisfitError: a part of the type is nested too deeply, or is an object without fields.
    """
    if depth > _MAX_DEPTH:
        raise MisfitError
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_uint64(kind):
        raise MisfitError
    if pa.types.is_list(kind):
        return pa.list_(_without_empty_types(kind.value_type, depth + 1))
    if pa.types.is_struct(kind):
        if kind.num_fields == 0:
            raise MisfitError
        return pa.struct([(field.name, _without_empty_types(field.type, depth + 1)) for field in kind])
    return kind


def converter(kind: pa.DataType) -> Callable[[Any], Any]:
    """Return a function that converts a value for a column of this type, or raises a `MisfitError`."""
    if pa.types.is_string(kind):
        return _to_text
    if pa.types.is_list(kind):
        convert = converter(kind.value_type)
        return lambda value: [None if item is None else convert(item) for item in _checked(value, list)]
    if pa.types.is_struct(kind):
        return _struct_converter({field.name: converter(field.type) for field in kind})
    if pa.types.is_floating(kind):
        return _to_float
    if pa.types.is_boolean(kind):
        return lambda value: _checked(value, bool)
    return _to_integer


def _struct_converter(fields: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def convert(value: Any) -> dict[str, Any]:
        found = _checked(value, dict)
        if not found.keys() <= fields.keys():
            raise MisfitError
        return {name: None if item is None else fields[name](item) for name, item in found.items()}

    return convert


def _checked(value: Any, *kinds: type) -> Any:
    # In Python, a truth value is also an integer. So its type is compared exactly.
    if type(value) not in kinds:
        raise MisfitError
    return value


def _to_text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise MisfitError from None


def _to_float(value: Any) -> float:
    try:
        return float(_checked(value, float, int))
    except OverflowError:
        raise MisfitError from None


def _to_integer(value: Any) -> int:
    if type(value) is not int or value not in _INT64:
        raise MisfitError
    return value
