"""Conditional requests: download an image only if it has changed (RFC 9110, section 13). No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.model import URL_LIMIT, PreviousImage

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
#: A long final URL is cut before it is stored. The limit is in bytes of JSON, where a backslash takes two bytes. So a
#: stored URL is complete if it has no backslash and fewer characters than this limit.
_MAX_KEPT_URL = URL_LIMIT - 40


@dataclass(frozen=True, slots=True)
class Validators:
    """The validators of a previous run's image, for a request that downloads the image only if it has changed."""

    etag: str | None
    last_modified: str | None
    #: The redacted URL that sent the validators; None for the URL in the list.
    url: str | None

    def came_from(self, url: str | None) -> bool:
        """Tell whether the validators came from this URL, because validators mean nothing to other URLs.

        The argument ``url`` has the same form as the validators' field ``url``: redacted, or None for the URL in the
        list.
        """
        return url == self.url

    def conditional_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers of a conditional request."""
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {**headers, **{name: value for name, value in named.items() if value is not None}}


def usable_validators(previous: PreviousImage) -> Validators | None:
    """Return the validators of a previous run's image; None if none is usable.

    A validator is usable if its form is valid. A validator that was too long for the manifest was shortened, so it is
    not usable. The stored final URL must be complete, too.
    """
    url = previous.final_url
    if url is not None and (len(url) >= _MAX_KEPT_URL or "\\" in url):
        return None
    etag = previous.etag if previous.etag is not None and _ETAG.fullmatch(previous.etag) else None
    date = previous.last_modified
    if date is not None and not _DATE.fullmatch(date):
        date = None
    return None if etag is None and date is None else Validators(etag, date, url)
