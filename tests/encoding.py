"""A picture as a file's bytes, in one of Pillow's formats."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image's bytes; ``options`` are those of Pillow's ``save``."""
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()
