"""A part of a body that broke off, and how its rest is asked for (RFC 9110, 14). Pure."""

from __future__ import annotations

import http
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

_CONTENT_RANGE = re.compile(r"bytes[ =]([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_STRONG = re.compile(r'"[\x21\x23-\x7e]*"')
#: What can be sent back as it came.
_PLAIN = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class PartialBody:
    """What came of a body, from its beginning, where its server lets us ask for the rest."""

    url: str
    body: bytes
    #: Of the whole; None where the server did not say it.
    total_size: int | None
    #: What the rest has to be of, for If-Range: a strong ETag, or the Last-Modified.
    validator: str
    #: Of the response that it began with.
    etag: str | None

    def extended(self, body: bytes) -> PartialBody:
        """Return the part with more of the same body."""
        return replace(self, body=body)

    def range_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the fields of a request for the rest, or for all of it if the image is another one by now."""
        return {**headers, "Range": f"bytes={len(self.body)}-", "If-Range": self.validator}

    def is_continued_by(self, status: int, headers: Mapping[str, str]) -> bool:
        """Tell whether a response goes on where the part ends, or begins anew; what does neither can't be used."""
        if status not in (http.HTTPStatus.PARTIAL_CONTENT, http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            return True
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        return (
            status == http.HTTPStatus.PARTIAL_CONTENT
            and found is not None
            and int(found[1]) == len(self.body)
            and (self.total_size is None or found[3] in ("*", str(self.total_size)))
            and headers.get("ETag") in (None, self.etag)
            and "Content-Encoding" not in headers
        )


def complete_range_size(headers: Mapping[str, str]) -> int | None:
    """Return the size of the whole body if the Content-Range of a response spans all of it; None otherwise."""
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or found[3] == "*" or int(found[1]) != 0 or int(found[2]) + 1 != int(found[3]):
        return None
    return int(found[3])


def resumable_body(url: str, headers: Mapping[str, str], body: bytes) -> PartialBody | None:
    """Return what came of a body; None where the server does not let us ask for the rest of just this one.

    Args:
        url: where it came from.
        headers: of the response, whose Content-Length was judged.
        body: what came, not encoded.
    """
    etag = headers.get("ETag")
    # A weak ETag says that two are alike, and not that they are the same bytes (RFC 9110, 8.8.1 and 13.1.5).
    validator = etag if etag is not None and _STRONG.fullmatch(etag) else headers.get("Last-Modified")
    ranges = {unit.strip() for unit in headers.get("Accept-Ranges", "").lower().split(",")}
    if ranges != {"bytes"} or validator is None or not _PLAIN.fullmatch(validator):
        return None
    announced = headers.get("Content-Length")
    return PartialBody(url, body, int(announced) if announced else None, validator, etag)
