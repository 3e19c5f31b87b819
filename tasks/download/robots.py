"""Ask a host's robots.txt whether a URL may be requested (RFC 9309). The fleet fetches the file once for each host.

A host is a scheme, a name and a port. If the file can't be fetched, no URL of the host is requested. The images then
fail with the error of the request for robots.txt, and are retried in the same way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from dataclasses import replace
from time import monotonic
from typing import Protocol

from tasks.deadline import Deadline
from tasks.download.recent_hosts import RecentMap
from tasks.download.robots_rules import MAX_BYTES, RULES_SECONDS, RobotsRules, product_token
from tasks.download.urls import Url
from tasks.errors import (
    FetchError,
    FetchTimeoutError,
    HttpServerError,
    RedirectError,
    RobotsDeniedError,
    RobotsUnreachableError,
)
from tasks.model import FetchOptions, HeaderOptions
from tasks.throttle_options import RobotsPolicy

#: The maximum number of redirects of a robots.txt, also to other hosts (RFC 9309, section 2.3.1.2).
_MAX_REDIRECTS = 5
#: Bytes that are read in addition to those that are parsed, because a body is read in blocks.
_SPARE_BYTES = 64 * 1024
#: The maximum length of all texts that a process remembers. The rules parsed for a robot take about twenty times as
#: much memory, and rules with wildcards up to seventy times as much.
_MAX_REMEMBERED_CHARACTERS = 1024 * 1024
#: The length that is assumed for a text without rules.
_LEAST_CHARACTERS = 200
#: The maximum number of hosts whose failures are counted.
_MAX_HOSTS = 10_000
#: How long to wait for another process that fetches the file, and the pause between two looks, in seconds.
_WAIT_SECONDS, _POLL_SECONDS = 5.0, 0.1


class RobotsStore(Protocol):
    """The rules that all processes of a fleet share, by a key for each host. No method raises an exception."""

    def load(self, key: str) -> str | None:
        """Return a host's rules; None if they are unknown."""

    def save(self, key: str, rules: str, seconds: float) -> None:
        """Save a host's rules for some time."""

    def claim(self, key: str) -> bool:
        """Return whether this process should fetch the file, because no other process is fetching it."""

    def release(self, key: str) -> None:
        """End a claim."""


#: Fetches a robots.txt; raises a FetchError.
Fetch = Callable[[Url, FetchOptions, Deadline], bytes]


class RobotsChecker:
    """Check URLs for all threads of a process."""

    def __init__(
        self, fetch: Fetch, store: RobotsStore | None = None, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """Set how to fetch a file, and where the fleet shares the rules; None for a process without a fleet."""
        self._fetch, self._store, self._pause = fetch, store, pause
        self._rules: RecentMap[str, RobotsRules] = RecentMap(RULES_SECONDS, _MAX_REMEMBERED_CHARACTERS, _length)
        #: The number of server errors in a row.
        self._failures: RecentMap[str, int] = RecentMap(RULES_SECONDS, _MAX_HOSTS)
        #: The requests under way, each with the deadline of the image that needs the rules.
        self._pending: dict[str, tuple[Future[RobotsRules], Deadline]] = {}
        self._lock = threading.Lock()

    def check(self, url: Url, options: FetchOptions, deadline: Deadline) -> float | None:
        """Check that the host's robots.txt allows a URL; return its crawl delay in seconds, or None.

        Args:
            url: the URL that will be requested.
            options: the run's options; the User-Agent decides which rules apply.
            deadline: the deadline of the image.

        Raises:
            RobotsDeniedError: the file forbids the URL.
            RobotsUnreachableError: the server failed, and is not asked again for some time.
            FetchError: the file can't be fetched.
        """
        rules = self._rules.get(_key(url, options)) or self._obtain(url, options, deadline)
        if rules.unreachable is not None:
            raise RobotsUnreachableError(
                f"{rules.unreachable}, so {url.origin} is not asked for images now (use --robots ignore to ask anyway)"
            )
        token = product_token(options.headers.user_agent)
        if not rules.allows(url.target, token):
            raise RobotsDeniedError(
                f"robots.txt of {url.origin} forbids it to {token} (use --robots ignore to download the image anyway)"
            )
        return rules.crawl_delay(token)

    def _obtain(self, url: Url, options: FetchOptions, deadline: Deadline) -> RobotsRules:
        """Return a host's rules from the store or from the host. Only one thread asks; the others wait for it."""
        key = _key(url, options)
        with self._lock:
            known = self._rules.get(key)
            if known is not None:
                return known
            other = self._pending.get(key)
            if other is None:
                mine = Future[RobotsRules]()
                self._pending[key] = mine, deadline
        if other is not None:
            try:
                return other[0].result(max(deadline.remaining, 0))
            except TimeoutError as error:
                raise FetchTimeoutError(f"robots.txt of {url.origin} {deadline.timeout_message}") from error
            except FetchTimeoutError as error:
                # If only the other image's deadline is over, this image has time to fetch the file itself.
                if not other[1].is_over or deadline.is_over:
                    raise copy(error) from error
            except FetchError as error:
                raise copy(error) from error
            return self._obtain(url, options, deadline)
        try:
            rules = self._load_or_fetch(key, replace(url, target="/robots.txt", userinfo=None), options, deadline)
            self._rules.put(key, rules, rules.lifetime)
            mine.set_result(rules)
        except BaseException as error:
            # Each thread gets a copy, because its caller adds facts about its own image to the error.
            mine.set_exception(copy(error) if isinstance(error, FetchError) else error)
            raise
        finally:
            with self._lock:
                del self._pending[key]
        return rules

    def _load_or_fetch(self, key: str, file: Url, options: FetchOptions, deadline: Deadline) -> RobotsRules:
        store = self._store
        if store is None:
            return self._ask(key, file, options, deadline)
        gives_up = monotonic() + min(_WAIT_SECONDS, deadline.remaining / 2)
        claimed = False
        try:
            # After a successful claim, look once more, because the process with the previous claim may have saved the
            # rules in between.
            while (saved := store.load(key)) is None and not claimed and monotonic() < gives_up:
                claimed = store.claim(key)
                if not claimed:
                    self._pause(_POLL_SECONDS)
            if saved is not None:
                return RobotsRules.from_json(saved)
            rules = self._ask(key, file, options, deadline)
            store.save(key, rules.to_json(), rules.lifetime)
            return rules
        finally:
            if claimed:
                store.release(key)

    def _ask(self, key: str, file: Url, options: FetchOptions, deadline: Deadline) -> RobotsRules:
        """Fetch a host's file.

        The first server errors are those of the image, which is then retried. If the server fails for as many times as
        an image is tried, it is not asked again for some time.
        """
        try:
            rules = RobotsRules.from_body(self._fetch(file, _robots_options(options), deadline))
        except RedirectError:
            rules = RobotsRules()
        except FetchError as error:
            error.args = (f"robots.txt: {error}",)
            if not isinstance(error, HttpServerError):
                raise
            failures = (self._failures.get(key) or 0) + 1
            if failures <= options.retries:
                self._failures.put(key, failures)
                raise
            rules = RobotsRules(unreachable=str(error))
        self._failures.drop(key)
        return rules


def _key(url: Url, options: FetchOptions) -> str:
    """Return the key of a host's rules. Rules from an unverified server are not used by runs that verify servers."""
    return f"insecure {url.origin}" if options.insecure else url.origin


def _robots_options(options: FetchOptions) -> FetchOptions:
    """Return the options for a robots.txt.

    The file is public, so it is requested without the user's extra headers, and a redirect from https to http is
    harmless.
    """
    return replace(
        options,
        max_bytes=MAX_BYTES + _SPARE_BYTES,
        max_redirects=_MAX_REDIRECTS,
        allow_downgrade=True,
        headers=HeaderOptions(options.headers.user_agent),
        throttle=replace(options.throttle, robots=RobotsPolicy.IGNORE),
    )


def _length(rules: RobotsRules) -> int:
    return len(rules.text) + _LEAST_CHARACTERS
