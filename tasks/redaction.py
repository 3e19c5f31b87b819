"""Texts with URLs in them, made safe to show: passwords, tokens and control characters are redacted. Pure."""

from __future__ import annotations

import re
from urllib.parse import unquote

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


def redacted(url: str) -> str:
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
            shown = _ESCAPED_NAME.sub(_redacted_if_secret, shown)
    return shown


def _redacted_if_secret(parameter: re.Match[str]) -> str:
    name = unquote(parameter[1])
    return f"{parameter[0][0]}{parameter[1]}=***" if _SECRET_ALONE.fullmatch(name) else parameter[0]
