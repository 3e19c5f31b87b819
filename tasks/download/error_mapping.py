"""Convert HTTP statuses and the exceptions of requests, urllib3, TLS and sockets into a `FetchError`."""

from __future__ import annotations

import http.client
import ssl

import requests
import urllib3
from requests import Response

from tasks.deadline import Deadline
from tasks.download import tls, urls
from tasks.download.retry import parse_retry_after
from tasks.errors import (
    BadResponseError,
    ConnectError,
    FetchError,
    FetchTimeoutError,
    HttpClientError,
    HttpNotImplementedError,
    HttpRetryableClientError,
    HttpServerError,
    RateLimitedError,
    TlsClosedError,
    TlsError,
    TruncatedError,
)

_RETRYABLE_CLIENT_STATUSES = frozenset({http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_EARLY})
_NOT_IMPLEMENTED_STATUSES = frozenset({http.HTTPStatus.NOT_IMPLEMENTED, http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})


def error_for_status(response: Response) -> FetchError:
    """Return the error for a response with an error status, or with a status that imagefleet does not expect."""
    status = response.status_code
    text = f"HTTP {status} {response.reason or ''}".strip()
    # If there is more than one Retry-After, the longest wait counts.
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
    return BadResponseError(f"{text}, an unexpected status", http_status=status)


def map_exception(error: Exception, url: urls.Url, deadline: Deadline) -> FetchError:
    """Return the error for the first known cause of an exception from the requests library, urllib3 or a socket."""
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
            return ConnectError(f"{where} closed the connection without a response")
        if isinstance(cause, http.client.HTTPException):
            return BadResponseError(f"the response of {where} is not HTTP: {cause or type(cause).__name__}")
    for cause in causes:
        if isinstance(cause, urllib3.exceptions.ProtocolError):
            return TruncatedError(f"{where} broke off the connection")
    return ConnectError(f"{where}: {causes[-1]}")


def cause_chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception and its causes, outermost first.

    Causes are found in ``reason``, the arguments, ``__cause__`` and ``__context__``.
    """
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        error = getattr(error, "reason", None) if isinstance(error, urllib3.exceptions.MaxRetryError) else inner
        error = error or found[-1].__cause__ or found[-1].__context__
    return found
