"""Redact passwords, tokens and control characters in texts with URLs, so that the texts are safe to show. No I/O."""

from __future__ import annotations

import re
from urllib.parse import unquote

#: Characters that move a terminal's cursor, end a line of a log, or reorder the displayed text: control characters of
#: ASCII and Latin-1, line separators, direction marks and overrides, and zero-width characters. The set also has lone
#: surrogates, because they can't be encoded.
_UNSHOWN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
#: Names of parameters with secrets: signatures of signed cloud URLs, tokens, passwords.
_PRIVATE = (
    r"[^=&;#?]*(?:token|signature|secret|password|passwd|credential|api[_-]?key|access[_-]?key|session|authorization"
    r"|hmac)[^=&;#?]*|sig|key|auth|hash|pwd|pass|policy|jwt|sid|hdne[as]|hdntl|hdnts"
)
# The name of a parameter ends before =. A lookahead finds the = first, so that the time for a hostile text grows only
# linearly with its length. The value follows. The value of ?s= (used by imgix) is often a size, so it is redacted only
# if it is a digest.
_SECRET = re.compile(rf"(?i)([?&;#](?=[^=&;#?]*+=)(?:{_PRIVATE}|s(?==[0-9a-f]{{32}})))=[^&;#]*")
_ESCAPED_NAME = re.compile(r"[?&;#](?=[^=&;#?]*+=)([^=&;#?]*%[^=&;#?]*)=[^&;#]*")
_SECRET_ALONE = re.compile(rf"(?is)(?:{_PRIVATE})")
# A password should not contain a slash, but some do. So all text from a colon to an @ counts as a password, unless a
# port follows the colon.
_USERINFO = re.compile(
    r"((?:\b[A-Za-z][A-Za-z0-9+.-]{0,20}:|^)[/\\]{2,})(?:[^/\\?#@\s\[]*:(?!\d{0,5}(?:[/\\?#\s]|$))\S*|[^/\\?#\s]*)@"
)


def redacted(url: str) -> str:
    """Return a URL, or a text with URLs, in a form safe to show.

    Userinfo and secret parameters are masked. Characters that could forge a log line or control a terminal are
    replaced.
    """
    # For most URLs, each of these checks saves much more time than it costs.
    shown = url if url.isascii() and url.isprintable() else _UNSHOWN.sub("\ufffd", url)
    if "@" in shown:
        shown = _USERINFO.sub(r"\1***@", shown)
    if "=" in shown:
        shown = _SECRET.sub(r"\1=***", shown)
        if "%" in shown:
            shown = _ESCAPED_NAME.sub(_redacted_if_secret, shown)
    return shown


def _redacted_if_secret(parameter: re.Match[str]) -> str:
    name = unquote(parameter[1])
    return f"{parameter[0][0]}{parameter[1]}=***" if _SECRET_ALONE.fullmatch(name) else parameter[0]
