"""The options that say how to read a URL list. A run records them, so that ``resume`` reads the list as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from config.limits import Bounds
from tasks.image_options import known_fields


class InputFormat(StrEnum):
    """The format of a URL list, without its compression."""

    #: One URL on each line.
    TEXT = "text"
    #: Columns separated by commas, semicolons, pipes or tabs.
    CSV = "csv"
    #: Columns separated by tabs.
    TSV = "tsv"
    #: Words separated by spaces, one of which is a URL.
    WORDS = "words"
    #: An input file of aria2.
    ARIA2 = "aria2"
    #: An array of objects or URLs.
    JSON = "json"
    #: One object or URL on each line.
    JSONL = "jsonl"
    PARQUET = "parquet"


class Dedupe(StrEnum):
    """What makes a row of a URL list a duplicate of an earlier row."""

    #: The same URL.
    URL = "url"


class HashKind(StrEnum):
    """The hash function used in a list."""

    SHA256 = "sha256"
    SHA512 = "sha512"
    MD5 = "md5"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a URL list.

    Columns are given by name. If the list has no header, columns are given by number, beginning with 1.
    """

    #: None: recognize the format by the file's name and content.
    input_format: InputFormat | None = None
    #: The column with the URLs; None selects the only column that has a usual name for URLs.
    url_col: str | None = None
    #: The column with the captions; it becomes the column ``caption`` of the manifests.
    caption_col: str | None = None
    #: Further columns to pass through to the manifests.
    columns: tuple[str, ...] = ()
    #: The encoding of text. None: UTF-8; a byte order mark selects UTF-16 or UTF-32.
    encoding: str | None = None
    #: Whether the first row of a table is its header.
    header: bool = True
    #: The URL of a page, or a scheme. It completes the URLs that have no scheme. None: these URLs stay as they are.
    base_url: str | None = None
    #: Rows to skip at the start.
    offset: Annotated[int, Bounds(0)] = 0
    #: The maximum number of rows to take after the skipped rows; None: all rows.
    limit: Annotated[int, Bounds(1)] | None = None
    #: The number of rows to choose at random from the taken rows; None: all rows.
    sample: Annotated[int, Bounds(1)] | None = None
    #: The seed, which decides which rows are chosen at random.
    seed: int = 0
    #: The column with the hashes of the images, or None. It is used together with ``verify_hash``.
    hash_col: str | None = None
    #: The column with the names of the files, or None.
    path_col: str | None = None
    verify_hash: HashKind | None = None
    #: Which rows count as duplicates of an earlier row and are not downloaded; None: all rows are downloaded.
    dedupe: Dedupe | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the options from decoded JSON. Fields that this version does not know are dropped."""
        known = known_fields(cls, value)
        kinds: dict[str, type[StrEnum]] = {"input_format": InputFormat, "dedupe": Dedupe, "verify_hash": HashKind}
        for name, kind in kinds.items():
            if known.get(name) is not None:
                known[name] = kind(known[name])
        known["columns"] = tuple(known.get("columns", ()))
        return cls(**known)


#: Recognize the format, and read only the URLs.
DEFAULT = SourceOptions()
