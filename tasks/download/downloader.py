"""A URL's bytes: streamed under a byte cap and a deadline, redirects followed hop by hop, retried where it may help.

This is the only place where a download is tried again.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import requests
import urllib3
from requests import Response

from config.settings import settings
from tasks.deadline import Deadline
from tasks.download import network_settings, urls
from tasks.download.adapters import GuardedAdapter, Sessions, request_headers
from tasks.download.body import REDIRECT_STATUSES, check_opt_out, drain, read_body
from tasks.download.byte_range import PartialBody
from tasks.download.conditional import Validators
from tasks.download.connection import BadHeaderError
from tasks.download.cookies import Cookies, with_cookies
from tasks.download.error_mapping import map_exception
from tasks.download.retry import backoff, long_wait_error
from tasks.errors import (
    BadResponseError,
    BlockedAddressError,
    FetchError,
    InvalidUrlError,
    RedirectError,
    TlsError,
)
from tasks.model import FetchOptions
from tasks.redaction import redacted

#: What a user can do about a server that can't be verified.
_INSECURE_HINT = "--insecure can take it"
_INSECURE_NOT_ALLOWED_HINT = "--insecure is not allowed here: IMAGEFLEET_ALLOW_INSECURE_TLS"


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
                    raise long_wait_error(error, options, retry) from error
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
                location = _redirect_location(response, deadline) if response.status_code in REDIRECT_STATUSES else None
                if location is None:
                    try:
                        if on is not None and response.status_code == http.HTTPStatus.NOT_MODIFIED:
                            check_opt_out(response, options, deadline)
                            drain(response, deadline)
                            body = b""
                        else:
                            body = read_body(response, url, options, deadline, partial, left)
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
    drain(response, deadline)
    place: str = places[0]
    return place


def _next_hop(response: Response, url: urls.Url, location: str) -> urls.Url:
    try:
        return urls.join(url, location)
    except InvalidUrlError as error:
        status = response.status_code
        raise RedirectError(f"HTTP {status} leads to no URL: {error}", http_status=status) from error
