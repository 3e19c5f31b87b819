"""Encode a Pillow image in one of its formats."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image's bytes; ``options`` are the options of Pillow's ``save``."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()
