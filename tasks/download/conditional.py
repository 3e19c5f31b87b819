"""A request under a condition: an image is sent only if it is another one by now (RFC 9110, 13). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.model import URL_LIMIT, PreviousImage

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
#: A final URL is kept up to a number of bytes of JSON, in which a backslash takes two. One that is shorter than this,
#: in characters, and without any, was not cut.
_MAX_KEPT_URL = URL_LIMIT - 40


@dataclass(frozen=True, slots=True)
class Validators:
    """That an image is another one than the one that these validators were given for."""

    etag: str | None
    last_modified: str | None
    #: The URL that gave them, redacted; None for the one that the list names.
    url: str | None

    def came_from(self, url: str | None) -> bool:
        """Tell whether a URL, named as above, is the one that gave the validators; they mean nothing to another."""
        return url == self.url

    def conditional_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the fields of a request that is made under the condition."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {**headers, **{name: value for name, value in named.items() if value is not None}}


def usable_validators(previous: PreviousImage) -> Validators | None:
    """Return the condition that an image is another one than a previous run's; None where nothing tells them apart.

    Only what can be sent back as it came counts: a validator with the form of one, which also says that it was kept
    whole, and a final URL that was.
    """
    url = previous.final_url
    if url is not None and (len(url) >= _MAX_KEPT_URL or "\\" in url):
        return None
    etag = previous.etag if previous.etag is not None and _ETAG.fullmatch(previous.etag) else None
    date = previous.last_modified
    if date is not None and not _DATE.fullmatch(date):
        date = None
    return None if etag is None and date is None else Validators(etag, date, url)
