"""Download a URL with redirects and retries, within a size limit and a deadline.

No other module retries a download.
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
from tasks.download.body import REDIRECT_STATUSES, BodyReader, RobotsReader, drain
from tasks.download.byte_range import PartialBody
from tasks.download.conditional import Validators
from tasks.download.connection import BadHeaderError
from tasks.download.cookies import Cookies, with_cookies
from tasks.download.error_mapping import map_exception
from tasks.download.retry import backoff, long_wait_error
from tasks.download.robots import RobotsChecker, RobotsStore
from tasks.errors import BadResponseError, BlockedAddressError, FetchError, InvalidUrlError, RedirectError, TlsError
from tasks.model import FetchOptions
from tasks.redaction import redacted
from tasks.throttle_options import RobotsPolicy

#: Advice for the user if a server can't be verified.
_INSECURE_HINT = "use --insecure to download it anyway"
_INSECURE_NOT_ALLOWED_HINT = "--insecure requires IMAGEFLEET_ALLOW_INSECURE_TLS on this worker"


@dataclass(frozen=True, slots=True)
class Download:
    """A successful download: the body, and facts from the last response."""

    body: bytes
    http_status: int
    #: The redacted URL after redirects; None without a redirect.
    final_url: str | None
    etag: str | None
    last_modified: str | None
    #: Whether the image's server, or a server that redirected to the image, was not verified.
    tls_unverified: bool = False

    @property
    def unchanged(self) -> bool:
        """Whether the server answered a conditional request with 304, without a body."""
        return self.http_status == http.HTTPStatus.NOT_MODIFIED


class Downloader:
    """The downloader of a process, shared by any number of threads."""

    def __init__(
        self,
        sessions: Sessions,
        sleep: Callable[[float], None] = time.sleep,
        robots_store: RobotsStore | None = None,
    ) -> None:
        """Take the process's sessions, a function that sleeps, and the fleet's robots.txt files."""
        self._sessions = sessions
        self._sleep = sleep
        self._robots = RobotsChecker(self._fetch_robots, robots_store)

    def download(
        self,
        url: str,
        options: FetchOptions,
        deadline: Deadline,
        on_attempt: Callable[[], None],
        prior_attempts: int = 0,
        validators: Validators | None = None,
    ) -> Download:
        """Download a URL, with retries within the limits of the options and the deadline.

        Args:
            url: the URL as in the URL list.
            options: the run's limits and retries.
            deadline: the deadline of all attempts together.
            on_attempt: called before each attempt.
            prior_attempts: attempts of earlier deliveries, which count against ``options.retries``.
            validators: for a conditional request. If the image is unchanged, the returned Download is ``unchanged`` and
                has no body.

        Raises:
            LongWaitError: the server requests a wait that is too long to hold a slot for, and another attempt is left.
            FetchError: the last attempt failed.
        """
        target = urls.parse(url)
        reader = BodyReader(options, deadline)
        retry = prior_attempts
        while True:
            on_attempt()
            try:
                return self._attempt(target, reader, validators)
            except FetchError as error:
                if error.retry_after is not None and error.retry_after > options.max_retry_after:
                    raise long_wait_error(error, options, retry) from error
                wait = backoff(retry, options.backoff, error.retry_after)
                if not error.retryable or retry >= options.retries or wait >= deadline.remaining:
                    raise
            self._sleep(wait)
            retry += 1

    def look_up_ahead(self, url: str, on_answer: Callable[[], object]) -> bool:
        """Start to resolve a URL's host, before a slot downloads the URL.

        Returns:
            Whether ``on_answer`` will be called, from another thread, when the look-up has ended. The result is False
            if there is nothing to wait for.
        """
        try:
            target = urls.parse(url)
        except InvalidUrlError:
            return False
        return self._sessions.look_up_ahead(target.host, on_answer)

    def _attempt(self, start: urls.Url, reader: BodyReader, validators: Validators | None) -> Download:
        """Download a URL and follow its redirects, without a retry."""
        options, deadline = reader.options, reader.deadline
        adapter = self._sessions.adapter(options.insecure)
        unverified = False
        url = start
        cookies: Cookies | None = None
        # The request's Cookie header. A server may answer differently to other cookies, so redirects form a loop only
        # if the URL and the Cookie header both repeat.
        cookie: str | None = None
        seen = {(url.text, cookie)}
        headers = request_headers(options.headers, self._sessions.contact, True)
        for _ in range(options.max_redirects + 1):
            final_url = None if url == start else redacted(url.text)
            if options.throttle.robots is RobotsPolicy.OBEY:
                self._check_robots(url, final_url, reader)
            sent, conditional = _with_range_or_validators(headers, reader.partial_from(url), validators, final_url)
            if cookie is not None:
                sent = with_cookies(sent, cookie)
            try:
                response = _send_request(adapter, url, deadline, sent)
                unverified = unverified or adapter.tls_unverified
                location = _redirect_location(response, deadline) if response.status_code in REDIRECT_STATUSES else None
                if location is None:
                    body = reader.read(response, url, conditional)
                    etag, last_modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
                    return Download(body, response.status_code, final_url, etag, last_modified, unverified)
            except FetchError as error:
                _add_context(error, final_url, options)
                raise
            if "Set-Cookie" in response.headers:
                cookies = cookies or Cookies()
                cookies.store(url, response.raw.headers.getlist("Set-Cookie"))
            before, url = url, _next_hop(response, url, location, options)
            if not _keeps_credentials(before, url):
                headers = request_headers(options.headers, self._sessions.contact, False)
            cookie = None if cookies is None else cookies.header_value(url)
            if (url.text, cookie) in seen:
                raise RedirectError(f"the redirect to {redacted(url.text)} is a loop", http_status=response.status_code)
            seen.add((url.text, cookie))
        raise RedirectError(f"more than {options.max_redirects} redirects", http_status=response.status_code)

    def _check_robots(self, url: urls.Url, final_url: str | None, reader: BodyReader) -> None:
        """Return normally if the robots.txt of a URL's host allows the URL.

        Raises:
            FetchError: the file forbids the URL, or can't be fetched.
        """
        try:
            self._robots.check(url, reader.options, reader.deadline)
        except FetchError as error:
            _add_context(error, final_url, reader.options)
            raise

    def _fetch_robots(self, url: urls.Url, options: FetchOptions, deadline: Deadline) -> bytes:
        return self._attempt(url, RobotsReader(options, deadline), None).body


def create_downloader(
    allow: Iterable[str] | None = None, proxied: bool = True, robots_store: RobotsStore | None = None
) -> Downloader:
    """Create the downloader configured by this process's environment.

    Args:
        allow: networks and hosts to allow in addition to public addresses; this list replaces
            IMAGEFLEET_ALLOW_NETWORKS.
        proxied: whether to use the proxy in IMAGEFLEET_PROXY; False for servers on this machine.
        robots_store: shares robots.txt files with other processes; None for a process without a fleet.

    Raises:
        SettingsError: a variable has an invalid value.
    """
    proxy = network_settings.proxy() if proxied else None
    sessions = Sessions(
        network_settings.guard(allow),
        network_settings.certificates(),
        settings().contact,
        proxy,
        settings().allow_insecure_tls,
    )
    return Downloader(sessions, robots_store=robots_store)


def _with_range_or_validators(
    headers: Mapping[str, str], partial: PartialBody | None, validators: Validators | None, final_url: str | None
) -> tuple[Mapping[str, str], bool]:
    """Return the headers of a request, and whether it is conditional.

    If a body was interrupted, only its rest is requested, without validators. Validators are not needed here, because
    the interrupted body was requested without validators or is newer than the previous run's image.
    """
    if partial is not None:
        return partial.range_headers(headers), False
    if validators is not None and validators.came_from(final_url):
        return validators.conditional_headers(headers), True
    return headers, False


def _add_context(error: FetchError, final_url: str | None, options: FetchOptions) -> None:
    """Add the failed URL and advice to an error."""
    error.final_url = final_url
    if isinstance(error, TlsError) and error.avoidable:
        error.args = (f"{error} ({_INSECURE_NOT_ALLOWED_HINT if options.insecure else _INSECURE_HINT})",)
        # The error of a request for robots.txt comes here a second time, as the error of the image.
        error.avoidable = False
    if final_url is not None and isinstance(error, BlockedAddressError):
        # The failed URL is not in the URL list, so the message says where this URL comes from.
        error.args = (f"after a redirect: {error}",)


def _keeps_credentials(before: urls.Url, after: urls.Url) -> bool:
    """Tell whether a redirect's target may get the credentials.

    A target may get the credentials if it has the same origin, or if it uses https on the same host.
    """
    if before.host != after.host:
        return False
    origin, target = (before.scheme, before.port), (after.scheme, after.port)
    return origin == target or (origin, target) == (("http", 80), ("https", 443))


def _send_request(adapter: GuardedAdapter, url: urls.Url, deadline: Deadline, headers: Mapping[str, str]) -> Response:
    try:
        return adapter.get(url, deadline, headers)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise map_exception(error, url, deadline) from error
    except BadHeaderError as error:
        raise BadResponseError(f"{url.host} sent an invalid header: {error}") from error
    except http.client.IncompleteRead as error:
        raise map_exception(error, url, deadline) from error
    except (ValueError, http.client.HTTPException) as error:
        raise BadResponseError(f"the response of {url.host} is not HTTP: {error}") from error


def _redirect_location(response: Response, deadline: Deadline) -> str | None:
    """Return the Location of a redirect, and discard the body.

    Without a Location, return None and leave the body unread, because the body may be the image.

    Raises:
        RedirectError: there are two different Locations, so one Location may be meant for another client.
    """
    locations = response.raw.headers.getlist("Location")
    if len(locations) > 1:
        response.close()
        raise RedirectError(
            f"HTTP {response.status_code} has {len(locations)} different Locations", http_status=response.status_code
        )
    if not locations or not locations[0]:
        return None
    drain(response, deadline)
    location: str = locations[0]
    return location


def _next_hop(response: Response, url: urls.Url, location: str, options: FetchOptions) -> urls.Url:
    """Return the URL that a redirect leads to.

    Raises:
        RedirectError: the Location is not a valid URL, or it leads from https to http and the user does not allow this.
    """
    status = response.status_code
    try:
        target = urls.join(url, location)
    except InvalidUrlError as error:
        raise RedirectError(f"HTTP {status} redirects to an invalid URL: {error}", http_status=status) from error
    if url.scheme == "https" and target.scheme == "http" and not options.allow_downgrade:
        raise RedirectError(f"the redirect to {redacted(target.text)} leads from https to http", http_status=status)
    return target
