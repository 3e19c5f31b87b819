"""Read the size of an SVG drawing. The whole drawing is parsed, but never rendered or changed.

The parser is expat. It never opens an external entity, because no handler for external entities is set. The library
defusedxml would refuse all declarations of entities. But drawings of Adobe Illustrator declare entities for namespaces.
So this module accepts a few short entities.

Sources: SVG 2, sections 7.2 (width and height) and 8.6 (viewBox); CSS Values and Units Module Level 3, section 6.2
(absolute lengths).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from xml.parsers import expat

from tasks.deadline import Deadline
from tasks.errors import FetchTimeoutError, UndecodableError
from tasks.images.file_signatures import SVG, identify_format
from tasks.images.identify import ImageInfo

#: Limits of a drawing. The largest maps have some hundred thousand elements.
_MAX_BYTES, _MAX_ELEMENTS = 16 * 1024 * 1024, 500_000
#: Limit of the declared entities, and of the characters that all references to entities can stand for.
_MAX_ENTITIES, _MAX_ENTITY_CHARACTERS = 100, 4 * 1024 * 1024
#: Limit of the attributes that the document type declares. expat compares each with all others, and with each element.
_MAX_DECLARED_ATTRIBUTES = 100
#: The longest name of a namespace. expat repeats it in the name of each element and attribute.
_MAX_NAMESPACE_CHARACTERS = 1000
#: The deadline is checked after each piece. Old versions of expat parse an unfinished tag again with each piece, so the
#: pieces must not be small.
_PIECE_BYTES = 1024 * 1024
#: The start of an XML document in UTF-8 or UTF-16.
_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*<|\xff\xfe<\0|\xfe\xff\0<")
_NAMESPACES = ("", "http://www.w3.org/2000/svg")
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
_LENGTH = re.compile(rf"({_NUMBER})(px|in|cm|mm|q|pt|pc)?", re.ASCII | re.IGNORECASE)
_VIEW_BOX = re.compile(rf"(?:{_NUMBER}[\s,]+){{2}}({_NUMBER})[\s,]+({_NUMBER})", re.ASCII | re.IGNORECASE)
#: The longest attribute to read.
_MAX_ATTRIBUTE_CHARACTERS = 200
#: The pixels of each unit.
_UNITS = {"px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 9.6 / 2.54, "q": 2.4 / 2.54, "pt": 4 / 3, "pc": 16.0}
#: The largest width or height that a manifest can hold.
_MAX_SIDE = 2**31 - 1


def inspect_svg(body: bytes, deadline: Deadline) -> ImageInfo | None:
    """Return the format and the size of an SVG drawing; None if the bytes are not an SVG drawing.

    The size is in CSS pixels, from the attributes ``width`` and ``height``, or from the ``viewBox``. If these give no
    size, width and height are None.

    Args:
        body: the bytes of any file.
        deadline: checked after each MiB.

    Raises:
        UndecodableError: the drawing is not well-formed or truncated, or exceeds a limit of this module.
        FetchTimeoutError: the deadline passed before the end of the drawing.
    """
    if not _START.match(body):
        return None
    drawing = _Drawing(body)
    try:
        drawing.parse(deadline)
    except _NotSvgError:
        return None
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: an unknown encoding
        if drawing.root is None and identify_format(body) is not SVG:
            return None
        raise UndecodableError(f"the SVG drawing is damaged: {error}") from error
    return ImageInfo("svg", "svg", *_size(drawing.root or {}))


class _NotSvgError(Exception):
    """The document type or the root element is not ``svg``."""


class _Drawing:
    """A drawing while it is parsed."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        #: The attributes of the root element; None before its tag.
        self.root: Mapping[str, str] | None = None
        self._elements, self._entities, self._declared_attributes = 0, 0, 0
        self._has_long_namespace = False
        #: The maximum number of references to entities.
        self._references = body.count(b"&")
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._start_doctype
        self._parser.StartElementHandler = self._start_element
        self._parser.StartNamespaceDeclHandler = self._declare_namespace
        self._parser.EntityDeclHandler = self._declare_entity
        self._parser.AttlistDeclHandler = self._declare_attribute

    def parse(self, deadline: Deadline) -> None:
        """Parse the whole drawing. Raises the errors of `inspect_svg` and of expat."""
        for place in range(0, len(self._body), _PIECE_BYTES):
            if deadline.remaining <= 0:
                raise FetchTimeoutError("the deadline passed before the SVG drawing was parsed")
            if place >= _MAX_BYTES:  # without a root element
                raise _NotSvgError
            self._parser.Parse(self._body[place : place + _PIECE_BYTES], False)
        self._parser.Parse(b"", True)

    def _start_doctype(self, name: str, *_: object) -> None:
        if name.rpartition(":")[2] != "svg":
            raise _NotSvgError

    def _start_element(self, name: str, attributes: dict[str, str]) -> None:
        if self.root is None:
            namespace, _, local = name.rpartition(" ")
            if local != "svg" or namespace not in _NAMESPACES:
                raise _NotSvgError
            if len(self._body) > _MAX_BYTES:
                raise UndecodableError(f"the SVG drawing has more than {_MAX_BYTES:,} bytes")
            self.root = attributes
            # The default values of the other elements are not needed. They can be long and repeated very often.
            self._parser.specified_attributes = True
        if self._has_long_namespace:
            raise UndecodableError(
                f"the SVG drawing has a namespace with more than {_MAX_NAMESPACE_CHARACTERS:,} characters"
            )
        self._elements += 1
        if self._elements > _MAX_ELEMENTS:
            raise UndecodableError(f"the SVG drawing has more than {_MAX_ELEMENTS:,} elements")

    def _declare_namespace(self, _prefix: str | None, name: str | None) -> None:
        # The next start tag uses the namespace, and shows whether the document is a drawing.
        self._has_long_namespace |= len(name or "") > _MAX_NAMESPACE_CHARACTERS

    def _declare_attribute(self, *_: object) -> None:
        self._declared_attributes += 1
        if self._declared_attributes > _MAX_DECLARED_ATTRIBUTES:
            raise UndecodableError(f"the SVG drawing declares more than {_MAX_DECLARED_ATTRIBUTES} attributes")

    def _declare_entity(self, _name: str, _is_parameter: bool, value: str | None, *_: object) -> None:
        """Check that the references to an entity can't expand to a text that is much longer than the file."""
        self._entities += 1
        if self._entities > _MAX_ENTITIES:
            raise UndecodableError(f"the SVG drawing declares more than {_MAX_ENTITIES} entities")
        # An external entity has no value. It is never read.
        if value is not None and ("&" in value or len(value) * self._references > _MAX_ENTITY_CHARACTERS):
            raise UndecodableError("the entities of the SVG drawing expand to too much text")


def _size(root: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the width and the height, from the attributes of the root element."""
    width, height = _length(root.get("width")), _length(root.get("height"))
    found = _VIEW_BOX.fullmatch(root.get("viewBox", "").strip()[:_MAX_ATTRIBUTE_CHARACTERS])
    across, down = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    if across > 0 < down:
        # A missing side follows from the aspect ratio of the viewBox.
        if width is None and height is None:
            width, height = across, down
        elif width is None and height is not None:
            width = height * across / down
        elif height is None and width is not None:
            height = width * down / across
    if width is None or height is None or not all(0 < side <= _MAX_SIDE for side in (width, height)):
        return None, None
    return max(1, round(width)), max(1, round(height))


def _length(value: str | None) -> float | None:
    """Return a length in pixels; None if it is missing, or relative to something outside of the drawing."""
    found = _LENGTH.fullmatch((value or "").strip()[:_MAX_ATTRIBUTE_CHARACTERS])
    if found is None:
        return None
    pixels = float(found[1]) * _UNITS[(found[2] or "px").lower()]
    return pixels if math.isfinite(pixels) else None
