"""Download a URL with redirects and retries, within a size limit and a deadline.

No other module retries a download.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import requests
import urllib3
from requests import Response

from config import limits
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
from tasks.download.guard import Guard
from tasks.download.retry import backoff, long_wait_error, rest_error
from tasks.download.robots import RobotsChecker, RobotsStore
from tasks.errors import (
    BadResponseError,
    BlockedAddressError,
    ConnectError,
    FetchError,
    FetchTimeoutError,
    HostRestingError,
    InvalidUrlError,
    RedirectError,
    TlsError,
    TruncatedError,
)
from tasks.model import FetchOptions
from tasks.phases import Phase
from tasks.redaction import redacted
from tasks.request_gate import Answer, OpenGate, Permit, RequestGate
from tasks.throttle_options import RobotsPolicy, ThrottleOptions

#: Parses a URL that a worker holds. A URL is parsed when its task arrives and again when a slot downloads it, so the
#: number is above the number of tasks that a worker holds.
_parse_url = lru_cache(maxsize=1024)(urls.parse)
#: The statuses with which a host asks for fewer requests.
_REFUSAL_STATUSES = frozenset({http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE})
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
        gate: RequestGate | None = None,
    ) -> None:
        """Take the process's sessions, a function that sleeps, the fleet's robots.txt files and the gate for requests.

        Without a gate, there are no limits per host.
        """
        self._sessions = sessions
        self._sleep = sleep
        self._robots = RobotsChecker(self._fetch_robots, robots_store)
        self._gate: RequestGate = gate or OpenGate()

    def download(
        self,
        url: str,
        options: FetchOptions,
        deadline: Deadline,
        on_attempt: Callable[[FetchError | None], None],
        prior_attempts: int = 0,
        validators: Validators | None = None,
    ) -> Download:
        """Download a URL, with retries within the limits of the options and the deadline.

        Args:
            url: the URL as in the URL list.
            options: the run's limits and retries.
            deadline: the deadline of all attempts together.
            on_attempt: called after each attempt that sent a request, with its error or None.
            prior_attempts: attempts of earlier deliveries, which count against ``options.retries``.
            validators: for a conditional request. If the image is unchanged, the returned Download is ``unchanged`` and
                has no body.

        Raises:
            LongWaitError: the server requests a wait that is too long to hold a slot for, or rests, and another attempt
                is left.
            HostBusy: the gate gives no permission for a request soon.
            FetchError: the last attempt failed.
        """
        target = _parse_url(url)
        reader = BodyReader(options, deadline)
        retry = prior_attempts
        before: FetchError | None = None
        while True:
            try:
                result = self._attempt(target, reader, validators)
            except HostRestingError:
                if before is not None:
                    # This image was tried, so its own error says more.
                    raise before from None
                raise
            except FetchError as error:
                on_attempt(error)
                before = error
                if error.retry_after is not None and error.retry_after > options.max_retry_after:
                    raise long_wait_error(error, options, retry) from error
                if not error.retryable or retry >= options.retries:
                    raise
                if error.is_probe and error.silent_host is not None:
                    # The host is still dead, and rests again when this is reported.
                    raise
                if error.rest is not None and self._gate.patience < error.rest <= limits.MAX_COUNTDOWN:
                    raise rest_error(error, error.rest) from error
                wait = backoff(retry, options.backoff, error.retry_after)
                if wait >= deadline.remaining:
                    raise
            else:
                on_attempt(None)
                return result
            self._sleep(wait)
            retry += 1

    def look_up_ahead(self, url: str, on_answer: Callable[[], object]) -> bool:
        """Start to resolve a URL's host, before a slot downloads the URL.

        Returns:
            Whether ``on_answer`` will be called, from another thread, when the look-up has ended. The result is False
            if there is nothing to wait for.
        """
        try:
            target = _parse_url(url)
        except InvalidUrlError:
            return False
        return self._sessions.look_up_ahead(target.host, target.port, on_answer)

    @contextmanager
    def permit(self, url: str, options: FetchOptions) -> Iterator[None]:
        """Hold a permit for a URL's host while the block runs, because another process downloads the URL.

        Raises:
            HostBusy, HostRestingError: as `RequestGate.enter`.
        """
        try:
            target = _parse_url(url)
        except InvalidUrlError:
            yield
            return
        permit = self._gate.enter(target, options.throttle, Deadline(options.timeout, options.deadline))
        try:
            yield
        finally:
            permit.end(None)

    def report_unreachable(self, error: FetchError, throttle: ThrottleOptions) -> float | None:
        """Report that an image failed because its host gave no response, and that this worker is not the cause.

        Return the seconds for which the host rests from now; None if it does not rest, or is given up.
        """
        if error.silent_host is None or not error.retryable:
            return None
        return self._gate.report_unreachable(error.silent_host, throttle)

    def _attempt(self, start: urls.Url, reader: BodyReader, validators: Validators | None) -> Download:
        """Download a URL and follow its redirects, without a retry."""
        options = reader.options
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
            try:
                sent, conditional = _with_range_or_validators(headers, reader.partial_from(url), validators, final_url)
                if cookie is not None:
                    sent = with_cookies(sent, cookie)
                # Nothing may fail between these two steps, because the permit would be lost.
                permit = self._enter(url, options, reader.deadline)
                response, location, body = _request(adapter, url, reader, sent, conditional, permit)
            except FetchError as error:
                _add_context(error, final_url, options)
                raise
            unverified = unverified or adapter.tls_unverified
            if location is None:
                etag, last_modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
                return Download(body, response.status_code, final_url, etag, last_modified, unverified)
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

    def _enter(self, url: urls.Url, options: FetchOptions, deadline: Deadline) -> Permit:
        """Return the permit for a request, if the host's robots.txt allows the request."""
        throttle = options.throttle
        # A request for robots.txt needs a permit of its own, so it comes first.
        if throttle.robots is RobotsPolicy.OBEY and (delay := self._robots.check(url, options, deadline)):
            throttle = throttle.slowed(url.host, url.port, 1 / delay)
        return self._gate.enter(url, throttle, deadline)

    def _fetch_robots(self, url: urls.Url, options: FetchOptions, deadline: Deadline) -> bytes:
        return self._attempt(url, RobotsReader(options, deadline), None).body


def create_downloader(
    guard: Guard | None = None,
    proxied: bool = True,
    robots_store: RobotsStore | None = None,
    gate: RequestGate | None = None,
) -> Downloader:
    """Create the downloader configured by this process's environment.

    Args:
        guard: opens the connections; None for a guard with the operator's lists.
        proxied: whether to use the proxy in IMAGEFLEET_PROXY; False for servers on this machine.
        robots_store: shares robots.txt files with other processes; None for a process without a fleet.
        gate: gives the permission for each request; None for no limits.

    Raises:
        SettingsError: a variable has an invalid value.
    """
    proxy = network_settings.proxy() if proxied else None
    sessions = Sessions(
        network_settings.guard() if guard is None else guard,
        network_settings.certificates(),
        settings().contact,
        proxy,
        settings().allow_insecure_tls,
    )
    return Downloader(sessions, robots_store=robots_store, gate=gate)


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


def _request(
    adapter: GuardedAdapter,
    url: urls.Url,
    reader: BodyReader,
    headers: Mapping[str, str],
    conditional: bool,
    permit: Permit,
) -> tuple[Response, str | None, bytes]:
    """Send a request and end its permit; return the response, the Location of a redirect or None, and the body."""
    started, latency = time.monotonic(), None
    clock = reader.deadline.clock
    clock.enter(Phase.FIRST_BYTE)
    try:
        response = _send_request(adapter, url, reader.deadline, headers)
        latency = time.monotonic() - started
        clock.enter(Phase.BODY)
        is_redirect = response.status_code in REDIRECT_STATUSES
        location = _redirect_location(response, reader.deadline) if is_redirect else None
        body = reader.read(response, url, conditional) if location is None else b""
    except FetchError as error:
        error.is_probe = permit.is_probe
        error.rest = permit.end(_answer(error, latency))
        if latency is None:
            error.silent_host = url
        raise
    except BaseException:
        permit.end(None)
        raise
    finally:
        clock.enter(Phase.WAITING)
    permit.end(Answer(latency))
    return response, location, body


def _answer(error: FetchError, latency: float | None) -> Answer | None:
    """Return what an error says about the host; ``latency`` is None if there was no response."""
    if latency is None:
        # Perhaps this worker's network is broken. `tasks.fetch` finds out and reports the host.
        return None
    if error.http_status in _REFUSAL_STATUSES:
        return Answer(latency, refused=True, retry_after=error.retry_after)
    return Answer(latency, failed=isinstance(error, FetchTimeoutError | TruncatedError | ConnectError))


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
