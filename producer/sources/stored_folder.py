"""The objects of a URL list that is a folder of an object store, or a pattern such as ``s3://bucket/lists/*.csv``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from producer.sources.stored_object import open_bucket, translated_errors

#: The characters that make a path a pattern.
PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object of a list."""

    url: str
    size: int
    #: The object's ETag, or None if the store gives no ETag.
    version: str | None


def is_folder(source: str) -> bool:
    """Return whether a URL of an object store stands for a folder or a pattern instead of one object."""
    return source.endswith("/") or PATTERN.search(source) is not None


def find_objects(source: str) -> list[FoundObject]:
    """Return the objects of a folder or pattern, sorted by name.

    Folders and patterns have the same meaning as for files.

    Raises:
        RemoteError: the store can't be asked.
    """
    bucket, client, key = open_bucket(source)
    import obstore

    pattern = f"{key}*" if not key or key.endswith("/") else key
    # The store lists all names below a folder: the last folder before the pattern's first special character.
    folder = PATTERN.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    with translated_errors(bucket):
        found = [item for chunk in obstore.list(client, folder or None) for item in chunk]
    parts = pattern.split("/")
    # Some tools mark a folder by an empty object.
    chosen = [item for item in found if item["size"] and _matches(str(item["path"]).split("/"), parts)]
    return [
        FoundObject(f"{bucket}/{item['path']}", int(item["size"]), item["e_tag"])
        for item in sorted(chosen, key=lambda item: str(item["path"]))
        if pattern == key or not str(item["path"]).rpartition("/")[2].startswith((".", "_"))
    ]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether the parts of a name match the parts of a pattern; ``**`` stands for any folders."""
    if not patterns or not names:
        return not patterns and not names
    if patterns[0] == "**" and len(patterns) > 1:
        return _matches(names, patterns[1:]) or _matches(names[1:], patterns)
    return fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])
