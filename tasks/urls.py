"""A URL, read as browsers read it: normalised for fetching, and masked for showing. Pure.

The normal form follows the WHATWG URL Standard where a list of images can differ from it: surrounding space goes,
spaces and non-ASCII characters are percent-encoded, backslashes are slashes, international host names become ASCII
(IDNA 2008 with the UTS 46 mapping), a default port and the fragment go. A host that ends in a number is an IPv4 address
in whatever way it is written (``127.1``, ``0x7f.1``, ``0177.0.0.1``, ``2130706433``), and is read here, so that
everybody after this sees the address.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin

import idna

from tasks.errors import InvalidUrl

#: The longest URL that is fetched, in characters; servers refuse longer ones too.
MAX_LENGTH = 8192
_PORTS = {"http": 80, "https": 443}
#: What may stand unescaped in a path or query. ``%`` is among them: what is escaped already stays as it is.
_PATH_SAFE = "!$%&'()*+,-./:;=@_~"
_QUERY_SAFE = _PATH_SAFE + "?[]|^`{}\\"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_TEXT = re.compile("[\ufffd\ud800-\udfff]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_LIKE_URL = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]*:[/\\]|https?:|data:)")
_BEFORE_QUERY = re.compile(r"[^?#]*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: What moves a terminal's cursor, ends a line of a log, or shows text in another order than it has: the controls of
#: ASCII and of Latin-1, separators of lines, marks and overrides of direction, characters without a width, and halves
#: of characters, which can't be written at all.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
#: Parameters that let whoever reads them act for their owner: signatures of clouds' signed URLs, tokens, passwords.
_PRIVATE = (
    r"[^=&;#?]*(?:token|signature|secret|password|passwd|credential|api[_-]?key|access[_-]?key|session|authorization"
    r"|hmac)[^=&;#?]*|sig|key|auth|hash|pwd|pass|policy|jwt|sid|hdne[as]|hdntl|hdnts"
)
# The name ends before =, which is looked for first: a hostile text is read in a time that grows with its length alone.
# After = comes the value; after ?s= (of imgix) only what looks like a digest counts, as it is often a size.
_SECRET = re.compile(rf"(?i)([?&;#](?=[^=&;#?]*+=)(?:{_PRIVATE}|s(?==[0-9a-f]{{32}})))=[^&;#]*")
_ESCAPED_NAME = re.compile(r"[?&;#](?=[^=&;#?]*+=)([^=&;#?]*%[^=&;#?]*)=[^&;#]*")
_SECRET_ALONE = re.compile(rf"(?is)(?:{_PRIVATE})")
# A password may hold a slash, though it should not: what follows a colon and is no port belongs to it.
_USERINFO = re.compile(
    r"((?:\b[A-Za-z][A-Za-z0-9+.-]{0,20}:|^)[/\\]{2,})(?:[^/\\?#@\s\[]*:(?!\d{0,5}(?:[/\\?#\s]|$))\S*|[^/\\?#\s]*)@"
)


@dataclass(frozen=True, slots=True)
class Url:
    """A URL that can be fetched, in its parts. ``target`` is path and query; ``userinfo`` is never in ``text``."""

    scheme: str
    host: str
    port: int
    target: str
    userinfo: str | None = None

    @property
    def text(self) -> str:
        """The normal form, without userinfo."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.target}"


def parse(url: str) -> Url:
    """Return the URL in its parts, normalised.

    Raises:
        InvalidUrl: it can't be fetched; the message names the part that is wrong.
    """
    url = url.strip(" \t\r\n\f\v\x00")
    if not url:
        raise InvalidUrl("the URL is empty")
    if len(url) > MAX_LENGTH:
        raise InvalidUrl(f"the URL is longer than {MAX_LENGTH} characters")
    if _CONTROL.search(url):
        raise InvalidUrl("the URL holds a control character")
    if _NO_TEXT.search(url):
        raise InvalidUrl("the URL holds bytes that are not UTF-8")
    scheme, separator, rest = url.partition(":")
    scheme = scheme.lower()
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise InvalidUrl("the URL has no scheme: it must begin with http:// or https://")
    if scheme not in _PORTS:
        raise InvalidUrl(f"the scheme {scheme[:20]}: is not fetched, only http and https are")
    rest, _, query = rest.partition("#")[0].partition("?")
    authority, path = _split(rest)
    userinfo, _, hostport = authority.rpartition("@")
    host, port = _host_and_port(scheme, hostport)
    target = quote(path, safe=_PATH_SAFE) or "/"
    if query:
        target += "?" + quote(query, safe=_QUERY_SAFE)
    return Url(scheme, host, port, target, userinfo or None)


def join(base: Url, location: str) -> Url:
    """Return where a redirect from ``base`` leads; its host gets no userinfo of another.

    Raises:
        InvalidUrl: it leads to nothing that can be fetched.
    """
    # Servers send a Location as raw bytes, which http.client reads as Latin-1; browsers take them for UTF-8.
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    # Before the query, backslashes are slashes here too: whoever writes two of them names a host.
    place = _BEFORE_QUERY.match(location)
    if place is not None:
        location = place[0].replace("\\", "/") + location[place.end() :]
    try:
        return parse(urljoin(base.text, location.strip()))
    except ValueError as error:
        raise InvalidUrl(f"the redirect leads to no URL: {error}") from error


def looks_like_url(text: str) -> bool:
    """Tell whether a URL is in a text, also one that can't be fetched, or that has a mistake in it."""
    return _LIKE_URL.search(text) is not None


def masked(url: str) -> str:
    """Return the URL, or a text with URLs in it, fit to be shown.

    Userinfo and secret parameters are left out; what could forge a line of a log, or command a terminal, is replaced.
    """
    # Each look costs a fraction of the work that it saves with most URLs.
    shown = url if url.isascii() and url.isprintable() else _UNSHOWN.sub("\ufffd", url)
    if "@" in shown:
        shown = _USERINFO.sub(r"\1***@", shown)
    if "=" in shown:
        shown = _SECRET.sub(r"\1=***", shown)
        if "%" in shown:
            shown = _ESCAPED_NAME.sub(_masked_if_secret, shown)
    return shown


def _masked_if_secret(parameter: re.Match[str]) -> str:
    name = unquote(parameter[1])
    return f"{parameter[0][0]}{parameter[1]}=***" if _SECRET_ALONE.fullmatch(name) else parameter[0]


def _split(rest: str) -> tuple[str, str]:
    rest = rest.replace("\\", "/")
    if not rest.startswith("//"):
        raise InvalidUrl("the URL has no host: // is missing after the scheme")
    authority, slash, path = rest.lstrip("/").partition("/")
    return authority, slash + path


# The next image of a list is most often at the same host.
@lru_cache(maxsize=1024)
def _host_and_port(scheme: str, hostport: str) -> tuple[str, int]:
    # No message quotes what it speaks of: that may be a password with a slash in it.
    if hostport.startswith("["):
        name, bracket, tail = hostport[1:].partition("]")
        if not bracket:
            raise InvalidUrl("the host is no IPv6 address: its bracket is not closed")
        if tail and not tail.startswith(":"):
            raise InvalidUrl("the port is wrong: a colon has to stand between the host and it")
        return _ipv6(name), _port(scheme, tail[1:])
    name, _, port = hostport.partition(":")
    if ":" in port:
        raise InvalidUrl("the port is wrong, or the host is an IPv6 address, which has to stand in brackets")
    if not name:
        raise InvalidUrl("the URL has no host")
    return _host(name), _port(scheme, port)


def _port(scheme: str, digits: str) -> int:
    if not digits:
        return _PORTS[scheme]
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidUrl("the port is wrong: it is no number")
    port = int(digits[-6:]) if digits.lstrip("0") == digits[-6:].lstrip("0") else 65536
    if port > 65535:
        raise InvalidUrl("the port is wrong: the highest is 65535")
    if port == 0:
        raise InvalidUrl("the port is 0")
    return port


def _host(name: str) -> str:
    name = _unescaped(name).lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError as error:
            raise InvalidUrl("the host name is not valid: it holds characters that no host name can hold") from error
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise InvalidUrl("the host name is not valid")
    labels = name.removesuffix(".").split(".")
    return _ipv4(labels) if _NUMBER.fullmatch(labels[-1]) else name


def _unescaped(name: str) -> str:
    if "%" not in name:
        return name
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError as error:
        raise InvalidUrl("the host name is not valid: what is escaped in it is not UTF-8") from error


def _ipv4(labels: list[str]) -> str:
    """Return the address that up to four numbers stand for; the last fills what is left (WHATWG's IPv4 parser)."""
    try:
        if len(labels) > 4:
            raise ValueError
        numbers = [_number(label) for label in labels]
        *first, last = numbers
        if any(number > 255 for number in first):
            raise ValueError
        high = sum(number << 8 * (3 - place) for place, number in enumerate(first))
        # It is as wide as the places that are left.
        if last >= 1 << 8 * (4 - len(first)):
            raise ValueError
        return str(ipaddress.IPv4Address(high + last))
    except ValueError as error:
        raise InvalidUrl("the host ends in a number, and is no IPv4 address") from error


def _number(label: str) -> int:
    """Return the number of a label: hexadecimal after 0x, octal after 0, else decimal; 0x alone is 0."""
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    # Not by int() alone, which takes underscores too.
    if not label.isdigit():
        raise ValueError
    return int(label, 8 if label.startswith("0") else 10)


def _ipv6(name: str) -> str:
    if "%" in name:
        raise InvalidUrl("the host is an IPv6 address with a zone, which no URL can hold")
    try:
        return str(ipaddress.IPv6Address(name))
    except ValueError as error:
        raise InvalidUrl("the host is no IPv6 address") from error
