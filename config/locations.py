"""The location of an output folder: a path on this machine, or the URL of a folder in an object store.

A URL is ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX`` or ``az://CONTAINER/PREFIX``. The URL has no credentials, host
or options. Each process reads them from its environment. The names of the variables are those that the store's own
tools use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

#: The schemes of object stores.
SCHEMES = ("s3", "gs", "az")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")
#: A part of a prefix. Characters with a special meaning in a URL, a shell or a list of folders are not allowed.
_PART = re.compile(r"[\w!.'()=+@~-]+")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The URL of a folder in an object store."""

    scheme: str
    bucket: str
    #: The names between the slashes of the prefix; empty for the whole bucket.
    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> StoreUrl:
        """Parse the URL of a folder in an object store. A slash at the end of the URL is ignored.

        Raises:
            ValueError: the text is not the URL of a folder in an object store; the message says why.
        """
        found = _URL.fullmatch(text)
        scheme = found["scheme"].lower() if found is not None else ""
        if found is None or scheme not in SCHEMES:
            raise ValueError("its scheme is not one of s3, gs and az")
        bucket, _, prefix = found["rest"].partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError("the bucket's name is missing or not valid")
        parts = tuple(prefix.removesuffix("/").split("/")) if prefix else ()
        for part in parts:
            if part in (".", "..") or not _PART.fullmatch(part):
                raise ValueError(
                    f"the prefix has the part {part!a:.100}; a part may have letters, digits and any of _!.'()=+@~-, "
                    "but can't be empty, a single dot or two dots"
                )
        return cls(scheme, bucket, parts)

    def __str__(self) -> str:
        return f"{self.scheme}://{'/'.join((self.bucket, *self.parts))}"

    @property
    def prefix(self) -> str:
        """The prefix, without slashes at its start and end; empty for the whole bucket."""
        return "/".join(self.parts)

    def is_within(self, other: StoreUrl) -> bool:
        """Return whether this folder is the other folder, or is below it."""
        same = (self.scheme, self.bucket) == (other.scheme, other.bucket)
        return same and self.parts[: len(other.parts)] == other.parts


#: The location of an output folder.
Location: TypeAlias = Path | StoreUrl


def resolved(location: Location) -> Location:
    """Return the location.

    A path is made absolute and its links are resolved, so that the working folder has no effect.
    """
    return location.resolve() if isinstance(location, Path) else location


def url_scheme(text: str) -> str | None:
    """Return the scheme of a URL, in lower case, or None if the text is a path."""
    found = _URL.fullmatch(text.strip())
    return None if found is None else found["scheme"].lower()


def check_folder_name(text: str) -> None:
    """Check that a text is a path of a folder, and not a likely mistake.

    Raises:
        ValueError: it is a mistake; the message says why, and what to write.
    """
    if text == "":
        # It may come from an unset shell variable, so it does not mean the current folder.
        raise ValueError("the folder's name is empty")
    if scheme := url_scheme(text):
        # A URL is not a path. If it were used as a path, the run would create a local folder named after the scheme,
        # and would report success.
        other = "mount the storage and give the path of the mount"
        hint = "give the path without file://" if scheme == "file" else other
        raise ValueError(f"{scheme}:// is not supported, because only folders on this machine can be used; {hint}")
    if text.startswith("~"):
        # A shell replaces it only outside of quotes, and Python does not.
        raise ValueError(
            "~ was not replaced by your home folder; write ~ outside of quotes, or write the whole path. "
            "For a folder with this name, give its absolute path"
        )


def parse_location(text: str) -> Location:
    """Parse a location. A text with the scheme of an object store is a URL, and any other text is a path.

    Raises:
        ValueError: the text is a URL of an object store, but is not valid.
    """
    return StoreUrl.parse(text) if url_scheme(text) in SCHEMES else Path(text)
