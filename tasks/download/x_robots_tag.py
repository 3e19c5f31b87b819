"""Parse X-Robots-Tag, by which a server opts out of the use of its images. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: The name by which X-Robots-Tag speaks to us.
AGENT = "imagefleet"
#: ``none`` stands for noindex and nofollow.
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
#: Directives that have a colon of their own.
_DIRECTIVES_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[\w.*-]+")


def opt_out_directive(values: Iterable[str]) -> str | None:
    """Return the first directive of X-Robots-Tag fields by which a server keeps its image from us; None without one.

    A directive after a name and a colon is for that agent alone, as are those that follow it in the same field
    (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag#xrobotstag).
    """
    for value in values:
        ours = True
        for part in value.lower().split(","):
            name, colon, directive = part.partition(":")
            if colon and (name := name.strip()) not in _DIRECTIVES_WITH_VALUES and _AGENT.fullmatch(name):
                ours = name in (AGENT, "*")
            else:
                directive = part
            if ours and (directive := directive.strip()) in _OPT_OUTS:
                return directive
    return None
