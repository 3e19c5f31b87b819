"""Read the rows of JSON. A row is a URL, or an object whose fields are the columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from producer.sources.json_values import MisfitError, column_names, converter, getter, infer_type
from producer.sources.reader import BadRow, Row

#: Rows that decide the columns and their types. Fewer rows decide if they are large.
_SAMPLE, _SAMPLE_BYTES = 1000, 16 * 1024 * 1024
_URL = "url"
#: A row's number, its value or a `BadRow`, and the number of characters or bytes read so far.
Item = tuple[int, Any, int]


class JsonReader:
    """Reads rows of JSON. Another module takes these rows from the file one by one."""

    url_in_header: str | None = None

    def __init__(self, items: Iterator[Item], unit: str, description: str) -> None:
        """Read the first rows.

        Args:
            items: the rows.
            unit: what the numbers count, for messages.
            description: the format, for messages.
        """
        self._items, self._unit, self.description = items, unit, description
        self._sample = list(_first(items))
        self._number = 0
        self._objects = [value for _, item, _ in self._sample if isinstance(value := _as_object(item), dict)]
        self.names: Sequence[str] = column_names(self._objects)
        self.url_column: str | None = _URL if any(isinstance(item, str) for _, item, _ in self._sample) else None

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Return the types of these columns, from the first rows."""
        found = [(name, getter(name)) for name in columns]
        return pa.schema([(name, infer_type([get(value) for value in self._objects])) for name, get in found])

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[Row]:
        """Yield the rows, with the values of these columns in this order."""
        getters = [getter(name) for name in columns]
        converters = [(place, converter(field.type)) for place, field in enumerate(schema, 1)]
        sample, self._sample, self._objects = self._sample, [], []
        for self._number, item, _ in chain(sample, self._items):  # noqa: B020
            value = _as_object(item)
            if not isinstance(value, dict):
                yield item if isinstance(item, BadRow) else BadRow(f"{self.where()} is not an object")
                continue
            values = [get(value) for get in getters]
            try:
                for place, convert in converters:
                    if values[place] is not None:
                        values[place] = convert(values[place])
            except MisfitError:
                yield BadRow(self._explain_misfit(columns, values, schema))
                continue
            yield values

    def where(self) -> str:
        """Return the place of the last yielded row."""
        return f"{self._unit} {self._number:,}"

    def _explain_misfit(self, columns: Sequence[str], values: Sequence[Any], schema: pa.Schema) -> str:
        """Return why a row does not fit the types of the columns."""
        for name, value, field in zip(columns[1:], values[1:], schema, strict=False):
            try:
                if value is not None:
                    converter(field.type)(value)
            except MisfitError:
                if isinstance(value, dict | list):
                    shown = "an object" if isinstance(value, dict) else "an array"
                else:
                    shown = f"the value {str(value)[:60]!r}"
                return f"{self.where()} has {shown} in {name}, which is a column of {str(field.type)[:100]}"
        raise AssertionError("the caller has found a value that does not fit")


def _first(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the rows that decide the columns and their types."""
    for count, item in enumerate(items, 1):
        yield item
        if count == _SAMPLE or item[2] >= _SAMPLE_BYTES:
            return


def _as_object(item: Any) -> Any:
    """Return a row as an object. A row that is a text is the URL itself."""
    return {_URL: item} if isinstance(item, str) else item
