"""The cookies of one download: set by a redirect, sent to the hosts that may get them, and forgotten at the end.

http.cookiejar of the standard library decides which host gets a cookie; requests uses it, too. A cookie for a name
server's zone of two parts under a country (``.co.uk``) is refused.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import Request

from tasks.download.urls import Url

#: How much a server may set in one download, in bytes. Few servers take requests with more than half of that.
_MAX_BYTES = 16 * 1024
#: What can be sent back as it came, on one line.
_PLAIN = re.compile(r"[\x20-\x7e]+")


class Cookies:
    """The cookies that the redirects of one download have set."""

    def __init__(self) -> None:
        self._jar = CookieJar(DefaultCookiePolicy(rfc2965=False, strict_domain=True))
        self._bytes_left = _MAX_BYTES

    def store(self, url: Url, lines: Iterable[str]) -> None:
        """Keep the cookies that a response of this URL sets; what has no room, and what can't be sent, is left out.

        Args:
            url: where the response came from.
            lines: the values of its Set-Cookie fields.
        """
        head = http.client.HTTPMessage()
        for line in lines:
            self._bytes_left -= len(line)
            if self._bytes_left < 0:
                break
            if _PLAIN.fullmatch(line):
                head["Set-Cookie"] = line
        self._jar.extract_cookies(cast("Any", SimpleNamespace(info=lambda: head)), Request(url.text))  # noqa: S310

    def header_value(self, url: Url) -> str | None:
        """Return the value of the Cookie field for a request of this URL; None if no cookie is for it."""
        request = Request(url.text)  # noqa: S310  # nothing is opened
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie")


def with_cookies(headers: Mapping[str, str], value: str) -> Mapping[str, str]:
    """Return the fields of a request with cookies, after those that the user has set for the host."""
    name = next((name for name in headers if name.lower() == "cookie"), "Cookie")
    return {**headers, name: f"{headers[name]}; {value}" if name in headers else value}
