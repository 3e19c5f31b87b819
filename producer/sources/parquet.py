"""Read a Parquet file: only the chosen columns, one batch of rows after another. Their types are kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from io import BufferedReader
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from producer.sources.reader import DamagedListError

#: The maximum number of rows in a batch. A pass over the file ends once its row groups have this many rows.
_BATCH_ROWS = 4096
#: Bytes of a column to read at once.
_BUFFER_BYTES = 1024 * 1024
_ERRORS = (pa.ArrowException, OSError)


class ParquetReader:
    """Reads a Parquet file."""

    url_column: str | None = None
    url_in_header: str | None = None
    description = "a Parquet file"

    def __init__(self, stream: IO[bytes]) -> None:
        """Open a file that can seek.

        Raises:
            DamagedListError: the file is not a complete Parquet file.
        """
        try:
            # With pre_buffer, Arrow would read whole row groups ahead. It would also start threads, which may abort
            # the process at exit.
            self._file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        except _ERRORS as error:
            raise DamagedListError(f"it is not a complete Parquet file ({_first_line(error)})") from error
        self._types = dict(_fields("", self._file.schema_arrow))
        self.names: Sequence[str] = list(self._types)
        self._row = 0

    def schema(self, columns: Sequence[str]) -> pa.Schema:
        """Return the types of these columns."""
        return pa.schema([(name, _stored_type(self._types[name])) for name in columns])

    def rows(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, with the values of these columns in this order.

        Raises:
            DamagedListError: a later part of the file is damaged, or a column has another type than in the list's first
                file.
        """
        kinds = [_stored_type(self._types[columns[0]]), *(field.type for field in schema)]
        kinds += [_stored_type(self._types[name]) for name in columns[len(kinds) :]]
        batches = self._batches(list(dict.fromkeys(columns)))
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                values = [_values(_column(batch, name), kind) for name, kind in zip(columns, kinds, strict=True)]
            except _ERRORS as error:
                raise DamagedListError(f"the rows after {self.where()} can't be read ({_first_line(error)})") from error
            for self._row, row in enumerate(zip(*values, strict=True), self._row + 1):  # noqa: B020
                yield row

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the columns, in several passes over the file.

        With each row group in a pass, Arrow needs more memory.
        """
        groups: list[int] = []
        rows = 0
        for group in range(self._file.num_row_groups):
            groups.append(group)
            rows += self._file.metadata.row_group(group).num_rows
            if rows >= _BATCH_ROWS or group == self._file.num_row_groups - 1:
                yield from self._file.iter_batches(_BATCH_ROWS, groups, columns, use_threads=False)
                groups, rows = [], 0

    def where(self) -> str:
        """Return the place of the last yielded row."""
        return f"row {self._row:,}"


def spooled(stream: BufferedReader, file: IO[bytes]) -> IO[bytes]:
    """Copy a stream that can't seek into a temporary file, and return that file."""
    shutil.copyfileobj(stream, file, _BUFFER_BYTES)
    file.seek(0)
    return file


def _fields(prefix: str, fields: Any) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the names and types of all columns. A nested field is named by its path, such as ``image.url``."""
    for field in fields:
        yield f"{prefix}{field.name}", field.type
        if pa.types.is_struct(field.type):
            yield from _fields(f"{prefix}{field.name}.", field.type)


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Map the type of a list's column to its type in manifests."""
    if isinstance(kind, pa.ExtensionType):
        return _stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _stored_type(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


def _column(batch: pa.RecordBatch, name: str) -> pa.Array[Any]:
    if name in batch.schema.names:
        return batch.column(name)
    # Most lists have no nested columns.
    import pyarrow.compute as pc

    head, *rest = name.split(".")
    array = batch.column(head)
    for part in rest:
        array = pc.struct_field(array, part)
    return array


def _values(array: pa.Array[Any], kind: pa.DataType) -> list[Any]:
    """Return a column's values.

    Text and numbers become Python's own values. Other values stay Arrow's own values, because these keep all types
    exactly.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.type != kind:
        array = array.cast(kind)
    if pa.types.is_string(kind):
        try:
            return array.to_pylist()
        except UnicodeDecodeError:
            texts = array.cast(pa.binary()).to_pylist()
            return [None if text is None else text.decode("utf-8", "replace") for text in texts]
    if pa.types.is_primitive(kind) and not pa.types.is_temporal(kind):
        return array.to_pylist()
    return [value if value.is_valid else None for value in array]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
