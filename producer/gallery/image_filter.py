"""Choose the rows of a manifest by status, reason, format, host, file size and dimensions. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import reduce
from typing import Any, Self
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ByteSize, TypeAdapter, ValidationError

from producer.gallery.hosts import hosts
from tasks.image_options import ImageFormat
from tasks.model import Reason, Status

#: The filters that accept one of several words.
CHOICES: Mapping[str, type[StrEnum]] = {"status": Status, "reason": Reason, "format": ImageFormat}
_MAX_HOST, _MAX_SIZE, _MAX_DIGITS = 300, 30, 9
_SIZE = TypeAdapter(ByteSize)


class FilterError(ValueError):
    """A filter has an unusable value. The message says which one."""


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """A choice of images. None leaves a property open."""

    status: str | None = None
    reason: str | None = None
    format: str | None = None
    host: str | None = None
    #: Limits of the saved file's size, in bytes.
    min_bytes: int | None = None
    max_bytes: int | None = None
    #: Limits of the saved image's width and of its height, in pixels.
    min_side: int | None = None
    max_side: int | None = None

    @classmethod
    def from_query(cls, values: Mapping[str, str]) -> Self:
        """Return the filter in the query of a URL. Unknown names are ignored.

        Raises:
            FilterError: a value is not one of the known words, or is not a size or a number.
        """
        given = {name: text.strip() for name, text in values.items() if text.strip()}
        for name, kind in CHOICES.items():
            if name in given and given[name] not in list(kind):
                raise FilterError(f"There is no {name} {given[name]:.40}.")
        host = given.get("host", "").lower().rstrip(".")
        if len(host) > _MAX_HOST:
            raise FilterError(f"The name of a host has at most {_MAX_HOST} characters.")
        return cls(
            status=given.get("status"),
            reason=given.get("reason"),
            format=given.get("format"),
            host=host or None,
            min_bytes=_size(given.get("min_bytes")),
            max_bytes=_size(given.get("max_bytes")),
            min_side=_pixels(given.get("min_side")),
            max_side=_pixels(given.get("max_side")),
        )

    def query(self, **more: object) -> str:
        """Return the filter and more values as the query of a URL."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return urlencode({name: value for name, value in {**given, **more}.items() if value is not None})

    @property
    def is_empty(self) -> bool:
        """Whether the filter chooses every image."""
        return self == ImageFilter()

    @property
    def columns(self) -> list[str]:
        """The columns of a manifest that the filter needs, at least one."""
        found = [name for name in CHOICES if getattr(self, name) is not None]
        found += ["url"] * (self.host is not None)
        return [*found, *dict.fromkeys(name for name, _, _ in self._limits())] or ["status"]

    def rows(self, table: pa.Table) -> list[int]:
        """Return the numbers of the rows that the filter chooses.

        Args:
            table: the rows of a manifest, with at least the filter's `columns`.
        """
        masks = list(self._masks(table))
        if not masks:
            return list(range(table.num_rows))
        chosen = reduce(pc.and_kleene, masks)
        # Null stands for an unknown value, which no filter chooses.
        found: list[int] = pc.indices_nonzero(pc.fill_null(chosen, False)).to_pylist()
        return found

    def _masks(self, table: pa.Table) -> list[Any]:
        equal: list[tuple[Any, str]] = [
            (table[name], getattr(self, name)) for name in CHOICES if getattr(self, name) is not None
        ]
        if self.host is not None:
            equal.append((hosts(table["url"]), self.host))
        masks = [pc.equal(column, pa.scalar(value)) for column, value in equal]
        return masks + [is_within(table[name], pa.scalar(limit)) for name, is_within, limit in self._limits()]

    def _limits(self) -> list[tuple[str, Callable[..., Any], int]]:
        """Return the limits of numbers: the column, the comparison and the limit."""
        sides = ("width", "height")
        limits = [
            ("bytes", pc.greater_equal, self.min_bytes),
            ("bytes", pc.less_equal, self.max_bytes),
            *((name, pc.greater_equal, self.min_side) for name in sides),
            *((name, pc.less_equal, self.max_side) for name in sides),
        ]
        return [(name, is_within, limit) for name, is_within, limit in limits if limit is not None]


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > _MAX_SIZE:
        raise FilterError(f"A size has at most {_MAX_SIZE} characters.")
    try:
        size = int(_SIZE.validate_python(text))
    except ValidationError as error:
        raise FilterError(f"{text:.40} is not a size, such as 500 or 20KiB.") from error
    if not 0 <= size < 2**63:
        raise FilterError(f"{text:.40} is not a size of a file.")
    return size


def _pixels(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise FilterError(f"{text:.40} is not a number of pixels.")
    return int(text)
