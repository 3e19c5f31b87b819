"""A URL's bytes: streamed under a byte cap and a deadline, redirects followed hop by hop, retried where it may help.

This is the only place where a download is tried again.
"""

from __future__ import annotations

import http.client
import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import requests
import urllib3
from requests import Response

from config import limits
from config.settings import settings
from tasks.deadline import Deadline
from tasks.download import content_codings, network_settings, tls, urls
from tasks.download.adapters import GuardedAdapter, Sessions, request_headers
from tasks.download.byte_range import PartialBody, complete_range_size, resumable_body
from tasks.download.conditional import Validators
from tasks.download.connection import BadHeaderError
from tasks.download.cookies import Cookies, with_cookies
from tasks.download.retry import parse_retry_after
from tasks.download.x_robots_tag import opt_out_directive
from tasks.errors import (
    BadResponseError,
    BlockedAddressError,
    ConnectError,
    EmptyBodyError,
    FetchError,
    FetchTimeoutError,
    HttpClientError,
    HttpNotImplementedError,
    HttpRetryableClientError,
    HttpServerError,
    InvalidUrlError,
    LongWaitError,
    OptedOutError,
    RateLimitedError,
    RedirectError,
    TlsClosedError,
    TlsError,
    TooLargeError,
    TruncatedError,
)
from tasks.image_signatures import begins_as_image
from tasks.model import FetchOptions
from tasks.redaction import redacted

_BLOCK_BYTES = 64 * 1024
#: A refused request's body is read to its end up to this size, which keeps the connection for the next image.
_MAX_DRAIN_BYTES = 64 * 1024
#: The statuses that redirect if they have a Location: all of their class, as curl does, but 304.
_REDIRECTS = frozenset(range(300, 400)) - {http.HTTPStatus.NOT_MODIFIED}
#: The statuses of success: whichever it is, its body is the image.
_SUCCESS = range(200, 300)
_MAX_BACKOFF_SECONDS = 30.0
#: The most that is added to a countdown, as a part of it: images that were refused together do not come back together.
_COUNTDOWN_JITTER = 0.1
#: What a user can do about a server that can't be verified.
_INSECURE_HINT = "--insecure can take it"
_INSECURE_NOT_ALLOWED_HINT = "--insecure is not allowed here: IMAGEFLEET_ALLOW_INSECURE_TLS"
_RETRYABLE_CLIENT_STATUSES = frozenset({http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_EARLY})
_NOT_IMPLEMENTED_STATUSES = frozenset({http.HTTPStatus.NOT_IMPLEMENTED, http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})


@dataclass(frozen=True, slots=True)
class Download:
    """What came: the body, and what the last response said of it."""

    body: bytes
    http_status: int
    #: Where it came from after redirects, redacted; None if it came from where it was asked for.
    final_url: str | None
    etag: str | None
    last_modified: str | None
    #: Whether a server on the way to it was not verified.
    tls_unverified: bool = False

    @property
    def unchanged(self) -> bool:
        """Whether nothing came, as the image is still the one that the condition is about."""
        return self.http_status == http.HTTPStatus.NOT_MODIFIED


class Downloader:
    """Downloads for one process; any number of threads may call it."""

    def __init__(self, sessions: Sessions, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sessions = sessions
        self._sleep = sleep

    def download(
        self,
        url: str,
        options: FetchOptions,
        deadline: Deadline,
        on_attempt: Callable[[], None],
        prior_attempts: int = 0,
        validators: Validators | None = None,
    ) -> Download:
        """Return what the URL serves, after as many attempts as the options and the deadline allow.

        Args:
            url: as it stands in the Source.
            options: limits and retries.
            deadline: of all attempts together.
            on_attempt: called before each attempt.
            prior_attempts: how many attempts were made before, each of which counts among those that the options allow.
            validators: under which the image is wanted; if it is not met, the answer is ``unchanged`` and has no body.

        Raises:
            LongWaitError: the server asks for a wait that is too long for a slot, and that there is another attempt
                after.
            FetchError: of the last attempt.
        """
        target = urls.parse(url)
        retry = prior_attempts
        # What an attempt leaves to the next: nothing, or one part.
        left: list[PartialBody] = []
        while True:
            on_attempt()
            try:
                return self._attempt(target, options, deadline, left, validators)
            except FetchError as error:
                if error.retry_after is not None and error.retry_after > options.max_retry_after:
                    raise _long_wait_error(error, options, retry) from error
                wait = backoff(retry, options.backoff, error.retry_after)
                if not error.retryable or retry >= options.retries or wait >= deadline.remaining:
                    raise
            self._sleep(wait)
            retry += 1

    def _attempt(
        self,
        url: urls.Url,
        options: FetchOptions,
        deadline: Deadline,
        left: list[PartialBody],
        validators: Validators | None,
    ) -> Download:
        adapter = self._sessions.adapter(options.insecure)
        unverified = False
        start = url
        cookies: Cookies | None = None
        # The cookies that a URL was asked for with: what it answers may depend on them.
        cookie: str | None = None
        seen = {(url.text, cookie)}
        fields = request_headers(options.headers, self._sessions.contact, True)
        for _ in range(options.max_redirects + 1):
            partial = left[0] if left and left[0].url == url.text else None
            shown = None if url == start else redacted(url.text)
            # What has begun to come is of a newer image, or of one that there was no condition for.
            on = validators if validators is not None and partial is None and validators.came_from(shown) else None
            asked = (
                partial.range_headers(fields)
                if partial is not None
                else fields
                if on is None
                else on.conditional_headers(fields)
            )
            if cookie is not None:
                asked = with_cookies(asked, cookie)
            try:
                response = _send_request(adapter, url, deadline, asked)
                unverified = unverified or adapter.tls_unverified
                location = _redirect_location(response, deadline) if response.status_code in _REDIRECTS else None
                if location is None:
                    try:
                        if on is not None and response.status_code == http.HTTPStatus.NOT_MODIFIED:
                            _check_opt_out(response, options, deadline)
                            _drain(response, deadline)
                            body = b""
                        else:
                            body = _read_body(response, url, options, deadline, partial, left)
                    finally:
                        response.close()
                    return Download(
                        body,
                        response.status_code,
                        shown,
                        response.headers.get("ETag"),
                        response.headers.get("Last-Modified"),
                        unverified,
                    )
            except FetchError as error:
                error.final_url = shown
                if isinstance(error, TlsError) and error.avoidable:
                    error.args = (f"{error} ({_INSECURE_NOT_ALLOWED_HINT if options.insecure else _INSECURE_HINT})",)
                if shown is not None and isinstance(error, BlockedAddressError):
                    # The list has nothing of that address.
                    error.args = (f"after a redirect: {error}",)
                raise
            if "Set-Cookie" in response.headers:
                cookies = cookies or Cookies()
                cookies.store(url, response.raw.headers.getlist("Set-Cookie"))
            before, url = url, _next_hop(response, url, location)
            if before.scheme == "https" and url.scheme == "http" and not options.allow_downgrade:
                raise RedirectError(
                    f"the redirect to {redacted(url.text)} leads from https to http",
                    http_status=response.status_code,
                )
            if not _keeps_credentials(before, url):
                fields = request_headers(options.headers, self._sessions.contact, False)
            cookie = None if cookies is None else cookies.header_value(url)
            if (url.text, cookie) in seen:
                raise RedirectError(f"the redirect to {redacted(url.text)} is a loop", http_status=response.status_code)
            seen.add((url.text, cookie))
        raise RedirectError(f"more than {options.max_redirects} redirects", http_status=response.status_code)


def create_downloader(allow: Iterable[str] | None = None, proxied: bool = True) -> Downloader:
    """Return the downloader that this process's environment asks for.

    Args:
        allow: what may be connected to besides public addresses, in place of IMAGEFLEET_ALLOW_NETWORKS.
        proxied: whether IMAGEFLEET_PROXY holds; what this machine serves itself is nothing for a proxy.

    Raises:
        SettingsError: a variable does not hold what it should.
    """
    proxy = network_settings.proxy() if proxied else None
    sessions = Sessions(
        network_settings.guard(allow),
        network_settings.certificates(),
        settings().contact,
        proxy,
        settings().allow_insecure_tls,
    )
    return Downloader(sessions)


def backoff(retry: int, base: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait before a retry: half to whole of ``base * 2**retry``, at most 30.

    The random part keeps images that failed together from coming back together. A server's Retry-After, in seconds,
    counts where it is longer.
    """
    wait: float = min(base * 2**retry, _MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1)  # noqa: S311  # no secret
    return max(wait, retry_after or 0.0)


def countdown(wait: float) -> float:
    """Return the seconds after which an image is asked for again whose server asks for a wait: up to a tenth more."""
    spread: float = random.uniform(1, 1 + _COUNTDOWN_JITTER)  # noqa: S311  # no secret
    return wait * spread


def _long_wait_error(error: FetchError, options: FetchOptions, retry: int) -> RateLimitedError:
    """Return what a server's wish for a wait is that no slot is held for."""
    wait = error.retry_after or 0.0
    is_last = retry >= options.retries
    is_deferred = not is_last and wait <= limits.MAX_COUNTDOWN
    bound = options.max_retry_after if is_last or is_deferred else max(options.max_retry_after, limits.MAX_COUNTDOWN)
    longer = (LongWaitError if is_deferred else RateLimitedError)(
        f"{error}: asks for a wait of {wait:.0f} s, more than {bound:g}",
        http_status=error.http_status,
        retry_after=wait,
    )
    longer.final_url = error.final_url
    return longer


def _keeps_credentials(before: urls.Url, after: urls.Url) -> bool:
    """Tell whether a redirect stays with whom the credentials are for: the same origin, or the same host's https."""
    if before.host != after.host:
        return False
    origin, target = (before.scheme, before.port), (after.scheme, after.port)
    return origin == target or (origin, target) == (("http", 80), ("https", 443))


def _send_request(adapter: GuardedAdapter, url: urls.Url, deadline: Deadline, fields: Mapping[str, str]) -> Response:
    try:
        return adapter.get(url, deadline, fields)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise map_exception(error, url, deadline) from error
    except BadHeaderError as error:
        raise BadResponseError(f"{url.host} sent a head that is refused: {error}") from error
    except http.client.IncompleteRead as error:
        raise map_exception(error, url, deadline) from error
    except (ValueError, http.client.HTTPException) as error:
        raise BadResponseError(f"{url.host} answered with what is not HTTP: {error}") from error


def _redirect_location(response: Response, deadline: Deadline) -> str | None:
    """Return where a redirect leads, after its body; None if it does not say that, so that its body may be the image.

    Raises:
        RedirectError: it says two things, of which one may be meant for somebody else.
    """
    places = response.raw.headers.getlist("Location")
    if len(places) > 1:
        response.close()
        raise RedirectError(
            f"HTTP {response.status_code} has {len(places)} Locations that differ", http_status=response.status_code
        )
    if not places or not places[0]:
        return None
    _drain(response, deadline)
    place: str = places[0]
    return place


def _next_hop(response: Response, url: urls.Url, location: str) -> urls.Url:
    try:
        return urls.join(url, location)
    except InvalidUrlError as error:
        status = response.status_code
        raise RedirectError(f"HTTP {status} leads to no URL: {error}", http_status=status) from error


def _read_body(
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
            _drain(response, deadline)
            raise TruncatedError(
                "the body broke off, and the server did not go on where it had ended", http_status=status
            )
        if status == http.HTTPStatus.PARTIAL_CONTENT:
            begun, whole = partial.body, partial.total_size
    elif status == http.HTTPStatus.PARTIAL_CONTENT:
        whole = complete_range_size(response.headers)
        if whole is None and "Content-Range" in response.headers:
            _drain(response, deadline)
            raise BadResponseError(
                f"HTTP 206 with a part of the body alone, for which nobody asked: "
                f"{response.headers['Content-Range'][:60]}",
                http_status=status,
            )
    elif status not in _SUCCESS and status not in _REDIRECTS:
        _drain(response, deadline)
        raise error_for_status(response)
    _check_opt_out(response, options, deadline)
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
    if status in _REDIRECTS and not begins_as_image(body):
        raise RedirectError(f"HTTP {status} without a Location", http_status=status)
    if not body:
        text = "the body is empty" if status == http.HTTPStatus.OK else f"HTTP {status} with an empty body"
        raise EmptyBodyError(text, http_status=status)
    return body


def _check_opt_out(response: Response, options: FetchOptions, deadline: Deadline) -> None:
    """Leave an image alone whose server says that it is not for that.

    Raises:
        OptedOutError: it says so, and the user does not take it all the same.
    """
    if options.ignore_opt_out or "X-Robots-Tag" not in response.headers:
        return
    directive = opt_out_directive(response.raw.headers.getlist("X-Robots-Tag"))
    if directive is not None:
        _drain(response, deadline)
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


def error_for_status(response: Response) -> FetchError:
    """Return the error for a response with a status that is no success."""
    status = response.status_code
    text = f"HTTP {status} {response.reason or ''}".strip()
    # Of several waits the longest is kept to.
    waits = [parse_retry_after(value) for value in response.raw.headers.getlist("Retry-After")]
    retry_after = max((wait for wait in waits if wait is not None), default=None)
    if status == http.HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimitedError(text, http_status=status, retry_after=retry_after)
    if status in _RETRYABLE_CLIENT_STATUSES:
        return HttpRetryableClientError(text, http_status=status, retry_after=retry_after)
    if 400 <= status < 500:
        return HttpClientError(text, http_status=status)
    if status in _NOT_IMPLEMENTED_STATUSES:
        return HttpNotImplementedError(text, http_status=status)
    if 500 <= status < 600:
        return HttpServerError(text, http_status=status, retry_after=retry_after)
    return BadResponseError(f"{text}, which nobody asked for", http_status=status)


def _drain(response: Response, deadline: Deadline) -> None:
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


def map_exception(error: Exception, url: urls.Url, deadline: Deadline) -> FetchError:
    """Return what an exception of requests, urllib3 or the socket means for the image."""
    causes = list(cause_chain(error))
    where = f"{url.host} port {url.port}"
    for cause in causes:
        if isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            return FetchTimeoutError(f"{where} {deadline.timeout_message}")
        if isinstance(cause, ssl.SSLError):
            kind = TlsClosedError if tls.is_closed(cause) else TlsError
            failure = kind(f"{where}: {tls.explain(cause)}")
            failure.avoidable = tls.is_avoidable(cause)
            return failure
        if isinstance(cause, http.client.IncompleteRead | urllib3.exceptions.IncompleteRead):
            return TruncatedError(f"{where} ended the body early")
        if isinstance(cause, urllib3.exceptions.InvalidHeader):
            return BadResponseError(f"{where} sent a bad header: {cause}")
        if isinstance(cause, http.client.RemoteDisconnected):
            return ConnectError(f"{where} closed the connection without an answer")
        if isinstance(cause, http.client.HTTPException):
            return BadResponseError(f"{where} answered with what is not HTTP: {cause or type(cause).__name__}")
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.ProtocolError):
            return TruncatedError(f"{where} broke the connection off")
    return ConnectError(f"{where}: {causes[-1]}")


def cause_chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception with what it was raised from, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        error = getattr(error, "reason", None) if isinstance(error, urllib3.exceptions.MaxRetryError) else inner
        error = error or found[-1].__cause__ or found[-1].__context__
    return found
