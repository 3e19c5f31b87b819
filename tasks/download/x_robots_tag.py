"""Parse X-Robots-Tag, the response header by which a server opts out of the use of its images. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Our name in X-Robots-Tag.
AGENT = "imagefleet"
#: ``none`` means noindex and nofollow.
_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
#: Directives with a value after a colon. The text before such a directive's colon is the directive's name, not the name
#: of an agent.
_DIRECTIVES_WITH_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[\w.*-]+")


def opt_out_directive(values: Iterable[str]) -> str | None:
    """Return the first directive that opts the image out of our use; None without such a directive.

    After an agent's name and a colon, all directives in the same header apply only to this agent
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
