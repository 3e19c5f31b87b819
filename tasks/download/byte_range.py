"""Byte ranges: request only the rest of an interrupted body (RFC 9110, section 14). No I/O."""

from __future__ import annotations

import http
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

_CONTENT_RANGE = re.compile(r"bytes[ =]([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_STRONG = re.compile(r'"[\x21\x23-\x7e]*"')
#: A header value that can be sent back unchanged.
_PLAIN = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True)
class PartialBody:
    """The received beginning of an interrupted body. The server supports requests for the rest of the body."""

    url: str
    body: bytes
    #: The size of the whole body in bytes; None if the server did not give it.
    total_size: int | None
    #: The value of If-Range, which names the version of the body: a strong ETag, or the Last-Modified.
    validator: str
    #: The ETag of the first response.
    etag: str | None

    def extended(self, body: bytes) -> PartialBody:
        """Return a copy that has ``body``, all bytes of the same body received so far."""
        return replace(self, body=body)

    def range_headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return headers that request the rest of the body, or the whole body if the image has changed."""
        return {**headers, "Range": f"bytes={len(self.body)}-", "If-Range": self.validator}

    def is_continued_by(self, status: int, headers: Mapping[str, str]) -> bool:
        """Tell whether a response is usable: it continues the partial body, or it has the whole body."""
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
    """Return the size of the whole body in bytes if the Content-Range covers all of it; None otherwise."""
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or found[3] == "*" or int(found[1]) != 0 or int(found[2]) + 1 != int(found[3]):
        return None
    return int(found[3])


def resumable_body(url: str, headers: Mapping[str, str], body: bytes) -> PartialBody | None:
    """Return the received beginning of a body; None if the server can't send the rest of the same version.

    Args:
        url: the URL that sent the body.
        headers: the headers of the response, with a validated Content-Length.
        body: the received bytes, without a content coding.
    """
    etag = headers.get("ETag")
    # Two bodies with the same weak ETag are equivalent, but may differ in bytes (RFC 9110, sections 8.8.1 and 13.1.5).
    validator = etag if etag is not None and _STRONG.fullmatch(etag) else headers.get("Last-Modified")
    ranges = {unit.strip() for unit in headers.get("Accept-Ranges", "").lower().split(",")}
    if ranges != {"bytes"} or validator is None or not _PLAIN.fullmatch(validator):
        return None
    announced = headers.get("Content-Length")
    return PartialBody(url, body, int(announced) if announced else None, validator, etag)
