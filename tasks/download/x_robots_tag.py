"""Parse X-Robots-Tag, the response header by which a server opts out of the use of its images. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Our name in X-Robots-Tag.
AGENT = "imagefleet"
#: ``none`` means noindex and nofollow.
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
#: Directives with a colon before their value, which is not an agent's.
_DIRECTIVES_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[\w.*-]+")


def opt_out_directive(values: Iterable[str]) -> str | None:
    """Return the first directive that opts out of the use of the image by us; None without one.

    A directive after a name and a colon is for this agent only, and so are those after it in the same header
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
