"""The first bytes of the accepted image formats. No I/O."""

from __future__ import annotations

import re

#: The length of the longest signature, in bytes.
SIGNATURE_BYTES = 18
# A BMP begins with only two letters. So its four reserved zeros and the size of its next header are checked, too.
_IMAGE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|....ftypavi[fs]|II[*+]\x00|MM\x00[*+]|\x00\x00\x01\x00"
    rb"|BM....\x00{4}....(?:\x0c|\x28|\x34|\x38|\x40|\x6c|\x7c)\x00{3}",
    re.DOTALL,
)


def begins_as_image(body: bytes) -> bool:
    """Return whether the first bytes are those of an accepted image format. The image may still be broken."""
    return _IMAGE.match(body) is not None
