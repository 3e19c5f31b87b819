"""Parse URLs as browsers do, and normalise them for requests. No I/O.

The parser is ada-url, which follows the WHATWG URL Standard. It resolves dot segments, percent-encodes spaces and
non-ASCII characters, reads backslashes as slashes, removes tabs and line ends, and converts an international host name
to ASCII (UTS 46). A host that ends in a number is an IPv4 address in any notation (``127.1``, ``0x7f.1``,
``0177.0.0.1``, ``2130706433``). The guard checks the host of a `Url`, and the connection uses the same host.

We refuse some URLs that the Standard allows. Such a URL has one of these: a scheme other than http and https, port 0, a
host name that is too long for the DNS, a host name with empty labels, replacement characters for undecodable bytes, or
more than `MAX_LENGTH` characters.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import ada_url

from tasks.errors import InvalidUrlError

#: The maximum length of a URL, in characters. Servers refuse longer URLs, too.
MAX_LENGTH = 8192
#: The maximum length of a label and of a name in the DNS (https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4).
_MAX_LABEL, _MAX_NAME = 63, 253
_PORTS = {"http": 80, "https": 443}
#: A normalised URL: scheme, userinfo, host, port, path and query. All parts are ASCII. In the pattern, a part never
#: contains the separator that follows it.
_NORMAL = re.compile(r"(https?)://(?:([^/@]*)@)?(\[[^\]]*\]|[^/:]*)(?::([0-9]+))?(/[^#]*)")
_UNDECODABLE = re.compile("[\ufffd\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
#: Characters removed by the Standard: controls and spaces around a URL, tabs and line ends inside it.
_STRIPPED_AROUND = "".join(map(chr, range(0x21)))
_REMOVED_INSIDE = re.compile("[\t\r\n]")
_LOOKS_LIKE_URL = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*:[/\\]|https?:|data:)")


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed URL. ``target`` holds the path and the query. ``text`` never contains ``userinfo``."""

    scheme: str
    host: str
    port: int
    target: str
    userinfo: str | None = None

    @property
    def text(self) -> str:
        """The normalised URL, without userinfo."""
        return f"{self.origin}{self.target}"

    @property
    def origin(self) -> str:
        """The scheme, the host, and the port unless it is the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def parse(url: str) -> Url:
    """Parse and normalise a URL.

    Raises:
        InvalidUrlError: the URL can't be downloaded; the message names the invalid part.
    """
    return _parse(url, None)


def join(base: Url, location: str) -> Url:
    """Return the target of a redirect from ``base``; the target never inherits the userinfo of ``base``.

    Raises:
        InvalidUrlError: the target can't be downloaded.
    """
    # Servers send a Location as raw bytes. The module http.client decodes these bytes as Latin-1, but browsers decode
    # them as UTF-8.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    target = _parse(location, base)
    # A relative target is appended to the base URL. A URL that is already over the limit must not grow further with
    # each redirect.
    if MAX_LENGTH < len(base.text) < len(target.text):
        raise _too_long()
    return target


def looks_like_url(text: str) -> bool:
    """Tell whether a text contains a URL, even one with another scheme or with a mistake."""
    return _LOOKS_LIKE_URL.search(text) is not None


def _parse(url: str, base: Url | None) -> Url:
    if len(url) > MAX_LENGTH:
        raise _too_long()
    if not url.isascii() and _UNDECODABLE.search(url):
        raise InvalidUrlError("the URL has bytes that are not UTF-8")
    try:
        normal = ada_url.normalize_url(url) if base is None else ada_url.join_url(base.text, url)
    except ValueError as error:
        raise InvalidUrlError(_parse_error(url, base)) from error
    parts = _NORMAL.match(normal)
    if parts is None:
        raise InvalidUrlError(_other_scheme(normal.partition(":")[0]))
    scheme, userinfo, host, digits, target = parts.groups()
    port = _PORTS[scheme] if digits is None else int(digits)
    if port == 0:
        raise InvalidUrlError("the port is 0")
    # For most hosts, this quick check is enough. A short name has only valid labels if it does not begin with a dot and
    # has no two dots in a row.
    if len(host) > _MAX_LABEL or ".." in host or host.startswith("."):
        labels = host.removesuffix(".").split(".")
        if len(host) > _MAX_NAME or not all(0 < len(label) <= _MAX_LABEL for label in labels):
            raise InvalidUrlError(
                "the host name is not valid: it or a part of it is too long, or a part of it is empty"
            )
    return Url(scheme, host.strip("[]"), port, target, userinfo or None)


def _too_long() -> InvalidUrlError:
    return InvalidUrlError(f"the URL is longer than {MAX_LENGTH} characters")


def _other_scheme(scheme: str) -> str:
    return f"the scheme {scheme[:20]} is not supported: only http and https are"


def _parse_error(url: str, base: Url | None) -> str:
    """Return the reason why a URL is refused. The parser itself gives no reason.

    Only the URL's scheme is quoted, because any other part may belong to a password that contains a slash.
    """
    url = _REMOVED_INSIDE.sub("", url).strip(_STRIPPED_AROUND)
    if not url:
        return "the URL is empty"
    found = _SCHEME.match(url)
    if found is None and base is None:
        return "the URL has no scheme: it must begin with http:// or https://"
    scheme, rest = (found[1].lower(), url[found.end() :]) if found else ("http", url)
    if scheme not in _PORTS:
        return _other_scheme(scheme)
    authority = re.split(r"[/\\?#]", rest.lstrip("/\\"), maxsplit=1)[0]
    hostport = authority.rpartition("@")[2]
    is_ipv6 = hostport.startswith("[")
    name, closed, port = hostport[is_ipv6:].partition("]" if is_ipv6 else ":")
    if is_ipv6 and not closed:
        return "the host is not an IPv6 address: its bracket is not closed"
    if is_ipv6 and port and not port.startswith(":"):
        return "the port is invalid: a colon must precede it"
    port = port.removeprefix(":") if is_ipv6 else port
    if not is_ipv6 and ":" in port:
        return "the port is invalid, or the host is an IPv6 address, which needs brackets"
    if not name:
        return "the URL has no host"
    if port and not (port.isascii() and port.isdigit()):
        return "the port is invalid: it is not a number"
    if len(port.lstrip("0")) > 5 or int(port or 0) > 65535:
        return "the port is invalid: the maximum is 65535"
    if is_ipv6:
        return (
            "the host is an IPv6 address with a zone, which is not allowed in a URL"
            if "%" in name
            else "the host is not an IPv6 address"
        )
    try:
        name = unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        return "the host name is not valid: its escaped bytes are not UTF-8"
    if _NUMBER.fullmatch(name.removesuffix(".").rpartition(".")[2]):
        return "the host ends in a number, but is not an IPv4 address"
    return "the host name is not valid: it has characters not allowed in host names"
