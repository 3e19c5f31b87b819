"""Read a response's body within its limits, and keep the part that came if it breaks off."""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Iterator
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
#: A refused request's body is read to its end up to this size, which keeps the connection for the next image.
_MAX_DRAIN_BYTES = 64 * 1024
#: The statuses that redirect if they have a Location: all of their class, as curl does, but 304.
REDIRECT_STATUSES = frozenset(range(300, 400)) - {http.HTTPStatus.NOT_MODIFIED}
#: The statuses of success: whichever it is, its body is the image.
_SUCCESS = range(200, 300)


def read_body(
    response: Response,
    url: urls.Url,
    options: FetchOptions,
    deadline: Deadline,
    partial: PartialBody | None,
    left: list[PartialBody],
) -> bytes:
    """Return the body of a last response.

    Args:
        response: whose body is unread.
        url: where it came from.
        options: the run's.
        deadline: of the download.
        partial: what came before, if the rest of it was asked for.
        left: gets what comes, if the body breaks off and its rest can be asked for.

    Raises:
        FetchError: there is none that is wanted.
    """
    status = response.status_code
    begun = b""
    whole: int | None = None
    if partial is not None and (status in _SUCCESS or status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        left.clear()
        if not partial.is_continued_by(status, response.headers):
            drain(response, deadline)
            raise TruncatedError(
                "the body broke off, and the server did not go on where it had ended", http_status=status
            )
        if status == http.HTTPStatus.PARTIAL_CONTENT:
            begun, whole = partial.body, partial.total_size
    elif status == http.HTTPStatus.PARTIAL_CONTENT:
        whole = complete_range_size(response.headers)
        if whole is None and "Content-Range" in response.headers:
            drain(response, deadline)
            raise BadResponseError(
                f"HTTP 206 with a part of the body alone, for which nobody asked: "
                f"{response.headers['Content-Range'][:60]}",
                http_status=status,
            )
    elif status not in _SUCCESS and status not in REDIRECT_STATUSES:
        drain(response, deadline)
        raise error_for_status(response)
    check_opt_out(response, options, deadline)
    announced = response.headers.get("Content-Length", "")
    if announced and len(begun) + int(announced) > options.max_bytes:
        raise TooLargeError(f"the body has {announced} bytes, more than {options.max_bytes}", http_status=status)
    blocks = [begun] if begun else []
    try:
        size = _read_blocks(response, url, options, deadline, blocks)
        # A range is of the body as it is sent, so it says nothing of one that was decoded.
        if whole not in (None, size) and "Content-Encoding" not in response.headers:
            raise TruncatedError(f"the body has {size} bytes, and not {whole}", http_status=status)
    except FetchError as error:
        if error.retryable and blocks and "Content-Encoding" not in response.headers:
            body = b"".join(blocks)
            kept = (
                partial.extended(body)
                if begun and partial is not None
                else resumable_body(url.text, response.headers, body)
            )
            left[:] = [] if kept is None else [kept]
        raise
    body = b"".join(blocks)
    if status in REDIRECT_STATUSES and not begins_as_image(body):
        raise RedirectError(f"HTTP {status} without a Location", http_status=status)
    if not body:
        text = "the body is empty" if status == http.HTTPStatus.OK else f"HTTP {status} with an empty body"
        raise EmptyBodyError(text, http_status=status)
    return body


def check_opt_out(response: Response, options: FetchOptions, deadline: Deadline) -> None:
    """Leave an image alone whose server says that it is not for that.

    Raises:
        OptedOutError: it says so, and the user does not take it all the same.
    """
    if options.ignore_opt_out or "X-Robots-Tag" not in response.headers:
        return
    directive = opt_out_directive(response.raw.headers.getlist("X-Robots-Tag"))
    if directive is not None:
        drain(response, deadline)
        raise OptedOutError(
            f"X-Robots-Tag says {directive} (--ignore-opt-out takes it all the same)", http_status=response.status_code
        )


def _read_blocks(
    response: Response, url: urls.Url, options: FetchOptions, deadline: Deadline, blocks: list[bytes]
) -> int:
    """Read a body to its end, append it to blocks, and return the size of all of them."""
    status = response.status_code
    size = sum(map(len, blocks))
    pieces = iter(partial(response.raw.read1, _BLOCK_BYTES, decode_content=False), b"")
    try:
        # Most have no coding, and looking for a value costs more than looking whether there is one.
        if "Content-Encoding" in response.headers:
            names = content_codings.parse(response.headers["Content-Encoding"])
            pieces = content_codings.decode(_limit_compressed(pieces, options.max_bytes, status), names, status)
        for block in pieces:
            size += len(block)
            if size > options.max_bytes:
                raise TooLargeError(f"the body has more than {options.max_bytes} bytes", http_status=status)
            blocks.append(block)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        failure = map_exception(error, url, deadline)
        failure.http_status = status
        raise failure from error
    except (ValueError, http.client.HTTPException) as error:
        # http.client raises a bare ValueError for a chunk size that is no number.
        raise TruncatedError(f"the body broke off after {size} bytes", http_status=status) from error
    return size


def _limit_compressed(pieces: Iterable[bytes], max_bytes: int, status: int) -> Iterator[bytes]:
    """Return the pieces of a compressed body, which may hold less than it is long.

    Raises:
        TooLargeError: it has more than ``max_bytes``.
    """
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > max_bytes:
            raise TooLargeError(f"the compressed body has more than {max_bytes} bytes", http_status=status)
        yield piece


def drain(response: Response, deadline: Deadline) -> None:
    """Read a short body that nobody wants, so that the connection can be used again; close it otherwise."""
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
