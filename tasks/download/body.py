"""Read a response's body within the run's limits.

Keep an interrupted body, so that the next attempt requests only the missing bytes.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial

import urllib3
from requests import Response

from tasks.deadline import Deadline
from tasks.download import content_codings, urls
from tasks.download.byte_range import PartialBody, complete_range_size, resumable_body
from tasks.download.error_mapping import error_for_status, map_exception
from tasks.download.x_robots_tag import opt_out_directive
from tasks.errors import (
    BadResponseError,
    EmptyBodyError,
    FetchError,
    OptedOutError,
    RedirectError,
    TooLargeError,
    TruncatedError,
)
from tasks.image_signatures import begins_as_image
from tasks.model import FetchOptions

_BLOCK_BYTES = 64 * 1024
#: Up to this size, the body of a refused request is read to its end, so that the next image can use the connection.
_MAX_DRAIN_BYTES = 64 * 1024
#: A response with a Location and one of these statuses is a redirect. The statuses are all of 3xx except 304, as in
#: curl.
REDIRECT_STATUSES = frozenset(range(300, 400)) - {http.HTTPStatus.NOT_MODIFIED}
#: The body of a response with one of these statuses is the image.
_SUCCESS_STATUSES = range(200, 300)


class BodyReader:
    """Read the bodies of one download's responses.

    If a body is interrupted and the server supports byte ranges, the next attempt requests only the rest of the body.
    """

    __slots__ = ("_partial", "deadline", "options")

    def __init__(self, options: FetchOptions, deadline: Deadline) -> None:
        self.options, self.deadline = options, deadline
        self._partial: PartialBody | None = None

    def partial_from(self, url: urls.Url) -> PartialBody | None:
        """Return the interrupted body that this URL sent in an earlier attempt; None if there is no such body."""
        kept = self._partial
        return kept if kept is not None and kept.url == url.text else None

    def read(self, response: Response, url: urls.Url, conditional: bool) -> bytes:
        """Close a final response and return its body; b"" if the image is unchanged.

        Args:
            response: the response, with its body unread.
            url: the URL that sent the response.
            conditional: whether the request was conditional, so that 304 is a valid status.

        Raises:
            FetchError: the body is not acceptable.
        """
        try:
            if conditional and response.status_code == http.HTTPStatus.NOT_MODIFIED:
                self._check_opt_out(response)
                drain(response, self.deadline)
                return b""
            return self._read_image(response, url)
        finally:
            response.close()

    def _read_image(self, response: Response, url: urls.Url) -> bytes:
        status = response.status_code
        continued, total_size = self._check_status(response, url)
        self._check_opt_out(response)
        announced = response.headers.get("Content-Length", "")
        received = b"" if continued is None else continued.body
        if announced and len(received) + int(announced) > self.options.max_bytes:
            raise TooLargeError(
                f"the body has {int(announced):,} bytes, more than {self.options.max_bytes:,}", http_status=status
            )
        blocks = [received] if received else []
        try:
            size = self._read_blocks(response, url, blocks)
            # A Content-Range gives the total size of the encoded body, so ignore this size if the body was decoded.
            if total_size not in (None, size) and "Content-Encoding" not in response.headers:
                raise TruncatedError(f"the body has {size:,} bytes instead of {total_size:,}", http_status=status)
        except FetchError as error:
            if error.retryable and blocks and "Content-Encoding" not in response.headers:
                body = b"".join(blocks)
                self._partial = (
                    resumable_body(url.text, response.headers, body) if continued is None else continued.extended(body)
                )
            raise
        body = b"".join(blocks)
        if status in REDIRECT_STATUSES and not begins_as_image(body):
            raise RedirectError(f"HTTP {status} without a Location", http_status=status)
        if not body:
            text = "the body is empty" if status == http.HTTPStatus.OK else f"HTTP {status} with an empty body"
            raise EmptyBodyError(text, http_status=status)
        return body

    def _check_status(self, response: Response, url: urls.Url) -> tuple[PartialBody | None, int | None]:
        """Return the interrupted body that the response continues, and the total size given by its Content-Range.

        Both values are None if the response has the whole body and no range.

        Raises:
            FetchError: the status is an error, or the response has a different part of the body than requested.
        """
        status = response.status_code
        requested = self.partial_from(url)
        if requested is not None and (
            status in _SUCCESS_STATUSES or status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):
            self._partial = None
            if not requested.is_continued_by(status, response.headers):
                drain(response, self.deadline)
                raise TruncatedError(
                    "the body was interrupted, and the server's next response was not the rest of the same body",
                    http_status=status,
                )
            if status == http.HTTPStatus.PARTIAL_CONTENT:
                return requested, requested.total_size
        elif status == http.HTTPStatus.PARTIAL_CONTENT:
            total_size = complete_range_size(response.headers)
            if total_size is None and "Content-Range" in response.headers:
                drain(response, self.deadline)
                raise BadResponseError(
                    f"HTTP 206 with only a part of the body, which was not requested: "
                    f"{response.headers['Content-Range'][:60]}",
                    http_status=status,
                )
            return None, total_size
        elif status not in _SUCCESS_STATUSES and status not in REDIRECT_STATUSES:
            drain(response, self.deadline)
            raise error_for_status(response)
        return None, None

    def _check_opt_out(self, response: Response) -> None:
        """Refuse the image if its server opts out.

        Raises:
            OptedOutError: the server opts out, and the user does not ignore opt-outs.
        """
        if self.options.ignore_opt_out or "X-Robots-Tag" not in response.headers:
            return
        directive = opt_out_directive(response.raw.headers.getlist("X-Robots-Tag"))
        if directive is not None:
            drain(response, self.deadline)
            raise OptedOutError(
                f"X-Robots-Tag says {directive} (use --ignore-opt-out to download the image anyway)",
                http_status=response.status_code,
            )

    def _read_blocks(self, response: Response, url: urls.Url, blocks: list[bytes]) -> int:
        """Read a body to its end, append it to ``blocks``, and return the size of all blocks in bytes."""
        status, max_bytes = response.status_code, self.options.max_bytes
        size = sum(map(len, blocks))
        pieces = iter(partial(response.raw.read1, _BLOCK_BYTES, decode_content=False), b"")
        try:
            # Most responses have no coding. It is faster to check whether the header exists than to get the header.
            if "Content-Encoding" in response.headers:
                names = content_codings.parse(response.headers["Content-Encoding"])
                pieces = content_codings.decode(_limit_compressed(pieces, max_bytes, status), names, status)
            for block in pieces:
                size += len(block)
                if size > max_bytes:
                    raise TooLargeError(f"the body has more than {max_bytes:,} bytes", http_status=status)
                blocks.append(block)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failure = map_exception(error, url, self.deadline)
            failure.http_status = status
            raise failure from error
        except (ValueError, http.client.HTTPException) as error:
            # http.client raises a bare ValueError for a chunk size that is not a number.
            raise TruncatedError(f"the body was interrupted after {size:,} bytes", http_status=status) from error
        return size


class RobotsReader(BodyReader):
    """Read a robots.txt: its beginning is enough, and a file that a server does not have is empty."""

    __slots__ = ()

    def read(self, response: Response, url: urls.Url, conditional: bool) -> bytes:
        """Close a final response and return its body, cut off after about ``max_bytes``.

        If the server does not have the file (3xx without a Location, 4xx), return b"" (RFC 9309, section 2.3.1.3). Like
        Google, we do not count 429 among these statuses, because a server that sends it allows nothing now.

        Raises:
            FetchError: the server failed, or its response is not readable.
        """
        status = response.status_code
        blocks: list[bytes] = []
        try:
            if status not in _SUCCESS_STATUSES:
                drain(response, self.deadline)
                if 300 <= status < 500 and status != http.HTTPStatus.TOO_MANY_REQUESTS:
                    return b""
                raise error_for_status(response)
            with suppress(TooLargeError):
                self._read_blocks(response, url, blocks)
            return b"".join(blocks)
        finally:
            response.close()


def _limit_compressed(pieces: Iterable[bytes], max_bytes: int, status: int) -> Iterator[bytes]:
    """Yield the pieces of a compressed body. The compressed size is limited too.

    Raises:
        TooLargeError: the compressed body has more than ``max_bytes``.
    """
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > max_bytes:
            raise TooLargeError(f"the compressed body has more than {max_bytes:,} bytes", http_status=status)
        yield piece


def drain(response: Response, deadline: Deadline) -> None:
    """Read and discard a short body, so that the connection can be reused; otherwise close the connection."""
    size = 0
    try:
        if response.headers.get("Content-Length", "").isdigit():
            while size <= _MAX_DRAIN_BYTES and deadline.remaining > 0:
                block = response.raw.read1(_BLOCK_BYTES, decode_content=False)
                if not block:
                    return
                size += len(block)
    except (urllib3.exceptions.HTTPError, OSError, ValueError, http.client.HTTPException):
        pass
    response.close()
