"""The cookies of one download: set by redirects, sent to the permitted hosts, and forgotten when the download ends.

The standard library's http.cookiejar decides which host gets a cookie. The requests library uses http.cookiejar, too. A
cookie for a two-part domain under a country code (``.co.uk``) is refused.
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

#: The maximum size of all cookies in one download, in bytes. Few servers accept a request if its cookies exceed half of
#: this size.
_MAX_BYTES = 16 * 1024
#: A cookie that can be sent back unchanged, on one line.
_PLAIN = re.compile(r"[\x20-\x7e]+")


class Cookies:
    """The cookies set by the redirects of one download."""

    def __init__(self) -> None:
        self._jar = CookieJar(DefaultCookiePolicy(rfc2965=False, strict_domain=True))
        self._bytes_left = _MAX_BYTES

    def store(self, url: Url, lines: Iterable[str]) -> None:
        """Store the cookies set by a response.

        Cookies above the size limit are ignored. Cookies with characters that can't be sent are ignored, too.

        Args:
            url: the URL that sent the response.
            lines: the values of its Set-Cookie headers.
        """
        message = http.client.HTTPMessage()
        for line in lines:
            self._bytes_left -= len(line)
            if self._bytes_left < 0:
                break
            if _PLAIN.fullmatch(line):
                message["Set-Cookie"] = line
        self._jar.extract_cookies(cast("Any", SimpleNamespace(info=lambda: message)), Request(url.text))  # noqa: S310

    def header_value(self, url: Url) -> str | None:
        """Return the Cookie header for a request to this URL; None if there is no cookie for the URL."""
        request = Request(url.text)  # noqa: S310  # nothing is opened
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie")


def with_cookies(headers: Mapping[str, str], value: str) -> Mapping[str, str]:
    """Return the headers and these cookies. The user's own cookies for the host come first."""
    name = next((name for name in headers if name.lower() == "cookie"), "Cookie")
    return {**headers, name: f"{headers[name]}; {value}" if name in headers else value}
