"""SVG drawings are saved as they are, and are parsed within limits."""

from __future__ import annotations

import gzip
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.deadline import Deadline
from tasks.errors import FetchTimeoutError, FilteredError, NotAnImageError, UndecodableError
from tasks.image_options import (
    DEFAULT_FORMATS,
    NO_FILTER,
    EncodeFormat,
    FilterOptions,
    ImageFormat,
    ResizeMode,
    ResizeOptions,
)
from tasks.images import svg
from tasks.images.identify import ImageInfo, inspect
from tasks.images.prepare import existing_image, is_whole, prepare_image, saved_image
from tasks.images.svg import inspect_svg
from tasks.model import FetchOptions, Verify
from tests.waiting import PATIENCE

_FORMATS = (*DEFAULT_FORMATS, ImageFormat.SVG)
_OPTIONS = FetchOptions(formats=_FORMATS)
_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'


def soon() -> Deadline:
    """Return a deadline that no test reaches."""
    return Deadline(PATIENCE, PATIENCE)


def drawing(attributes: str = "", content: str = "", before: str = "") -> bytes:
    """Return a drawing."""
    return f"{before}<svg {_NAMESPACE} {attributes}>{content}</svg>".encode()


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="300" height="200.4"', (300, 200)),
        ('width=" 300px " height="2e2PX"', (300, 200)),
        ('width="1in" height="72pt"', (96, 96)),
        ('width="2.54cm" height="254mm"', (96, 960)),
        ('width="6pc" height="101.6Q"', (96, 96)),
        ('viewBox="0 0 40 30"', (40, 30)),
        ('viewBox="-5,-5 , 40.5 30" width="100%" height="100%"', (40, 30)),
        ('width="80" viewBox="0 0 40 30"', (80, 60)),
        ('height="15" width="auto" viewBox="0 0 40 30"', (20, 15)),
        ('width="80" height="10" viewBox="0 0 40 30"', (80, 10)),
        ('width="0.2" height="0.2"', (1, 1)),
        ("", (None, None)),
        ('width="300"', (None, None)),
        ('width="50%" height="10em"', (None, None)),
        ('width="0" height="10"', (None, None)),
        ('width="-3" height="10"', (None, None)),
        ('width="3000000000" height="10"', (None, None)),
        ('width="1e999" height="10"', (None, None)),
        ('viewBox="0 0 0 30"', (None, None)),
        ('viewBox="0 0 1e999 1e999"', (None, None)),
        ('viewBox="0 0 40"', (None, None)),
        (f'viewBox="{"1" * 100_000}"', (None, None)),
        ('width="٣" height="10"', (None, None)),
    ],
)
def test_size(attributes: str, size: tuple[int | None, int | None]) -> None:
    """The size comes from absolute lengths or the viewBox. Otherwise, it is unknown."""
    assert inspect_svg(drawing(attributes), soon()) == ImageInfo("svg", "svg", *size)


@pytest.mark.parametrize(
    "body",
    [
        b"<svg/>",
        b"\xef\xbb\xbf \n" + drawing(),
        drawing().decode().encode("utf-16"),
        b'<?xml version="1.0" encoding="windows-1251"?>' + drawing(content="<text>\xe4</text>"),
        b'<?xml version="1.0"?><!-- ' + b"a" * 5000 + b" -->" + drawing(),
        b'<s:svg xmlns:s="http://www.w3.org/2000/svg"/>',
        drawing(
            'xmlns:x="&ns_extend;" width="4" height="3"',
            before='<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://a.example/svg11.dtd" ['
            '<!ENTITY ns_extend "http://ns.adobe.com/Extensibility/1.0/"><!ENTITY nbsp "&#160;">]>',
            content="<text>&nbsp;&unknown;</text>",
        ),
        drawing(content="<script>alert(1)</script><foreignObject><p>a</p></foreignObject>"),
        drawing(content=f'<image href="data:image/png;base64,{"A" * 3_000_000}"/>'),
    ],
)
def test_real_forms(body: bytes) -> None:
    """Drawings are recognised in each encoding, after long comments, with a prefix, and with Illustrator's entities."""
    info = inspect_svg(body, soon())
    assert info is not None
    assert prepare_image(body, _OPTIONS, soon()).body == body
    assert is_whole(body, _OPTIONS, soon())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html><body>" + drawing() + b"</body></html>", "the body is an HTML page"),
        (b"<!DOCTYPE html><svg></svg>", "the body is an HTML page"),
        (b"<rss><channel/></rss>", "the body is an XML document"),
        (b'<svg xmlns="http://a.example/"/>', "the body is an SVG drawing, a format that imagefleet does not save"),
        (b"<p>not<br>closed", "the body is an HTML page"),
        (b"< no markup", "the body is plain text"),
        (
            gzip.compress(drawing(), mtime=0),
            r"the body is a compressed SVG drawing \(SVGZ\), a format that imagefleet does not",
        ),
    ],
)
def test_other_bodies(body: bytes, message: str) -> None:
    """Other documents are no drawings, even if they contain a drawing. A compressed drawing is refused."""
    assert inspect_svg(body, soon()) is None
    with pytest.raises(NotAnImageError, match=message):
        prepare_image(body, _OPTIONS, soon())


def test_drawings_are_saved_only_on_request() -> None:
    """Without `svg` in --formats, a drawing fails as before."""
    with pytest.raises(NotAnImageError, match="an SVG drawing, a format that imagefleet does not save"):
        prepare_image(drawing(), FetchOptions(), soon())
    with pytest.raises(NotAnImageError, match="an SVG drawing"):
        inspect(drawing(), 100)


@pytest.mark.parametrize(
    "body",
    [
        b"<svg",
        drawing()[:-1],
        drawing(content="<g>"),
        drawing() + b"\0" * 512,
        drawing(content="<a:b/>"),
        b'<?xml version="1.0" encoding="no-such"?>' + drawing(),
        b'<?xml version="1.0" encoding="shift_jis"?>' + drawing(),
        drawing().decode().encode("utf-16")[:-7],
        drawing("&unknown;"),
    ],
)
def test_damaged_drawings(body: bytes) -> None:
    """A drawing that is truncated or not well-formed is undecodable, and is not a complete file."""
    with pytest.raises(UndecodableError, match="the SVG drawing is damaged: "):
        prepare_image(body, _OPTIONS, soon())
    assert not is_whole(body, _OPTIONS, soon())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_are_parsed_or_refused(data: st.DataObject) -> None:
    """Whatever bytes change or are missing, the result is a size or one of our errors."""
    body = bytearray(drawing('width="4" height="3"', "<text>&#228;</text>", '<!DOCTYPE svg [<!ENTITY a "b">]>'))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        inspect_svg(bytes(body[: data.draw(st.integers(0, len(body)))]), soon())
    except UndecodableError:
        return


def test_external_entities_are_not_read(tmp_path: Path) -> None:
    """Neither a file nor a server is asked for an entity or a document type."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"<broken")
    for url in (secret.as_uri(), "http://127.0.0.1:9/"):
        doctype = f'<!DOCTYPE svg SYSTEM "{url}" [<!ENTITY a SYSTEM "{url}"><!ENTITY % b SYSTEM "{url}"> %b;]>'
        assert inspect_svg(drawing(before=doctype, content="<text>&a;</text>"), soon()) is not None


@pytest.mark.parametrize(
    "entities",
    [
        '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        f'<!ENTITY a "{"a" * 100_000}">',
        "".join(f'<!ENTITY a{number} "a">' for number in range(101)),
        '<!ENTITY a "&#38;b;"><!ENTITY b "&#38;a;">',
    ],
)
def test_entity_bombs_are_refused(entities: str) -> None:
    """Entities that contain entities, or stand for much text, or are too many, are refused before they expand."""
    content = f"<text>{'&a;' * 100}</text>"
    with pytest.raises(UndecodableError, match="entities"):
        inspect_svg(drawing(content=content, before=f"<!DOCTYPE svg [{entities}]>"), soon())


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes and the elements of a drawing are limited. The limits do not apply to other documents."""
    monkeypatch.setattr(svg, "_MAX_ELEMENTS", 10)
    assert inspect_svg(drawing(content="<g/>" * 9), soon()) is not None
    with pytest.raises(UndecodableError, match="more than 10 elements"):
        inspect_svg(drawing(content="<g/>" * 10), soon())
    large = drawing(content=" " * svg._MAX_BYTES)
    with pytest.raises(UndecodableError, match="more than 16,777,216 bytes"):
        inspect_svg(large, soon())
    assert inspect_svg(b"<rss>" + large + b"</rss>", soon()) is None
    assert inspect_svg(b" " * (svg._MAX_BYTES + 1) + drawing(), soon()) is None


def test_declared_attributes_are_limited() -> None:
    """Many declarations of attributes would take quadratic time, without a chance for other threads to run."""
    declared = " ".join(f'a{number} CDATA ""' for number in range(100))
    assert inspect_svg(drawing(before=f"<!DOCTYPE svg [<!ATTLIST svg {declared}>]>"), soon()) is not None
    with pytest.raises(UndecodableError, match="declares more than 100 attributes"):
        inspect_svg(drawing(before=f'<!DOCTYPE svg [<!ATTLIST svg {declared} b CDATA "">]>'), soon())


@pytest.mark.parametrize("attribute", ["xmlns", "xmlns:a"])
def test_namespaces_are_limited(attribute: str) -> None:
    """A long namespace would be repeated in the names of all elements. The limit does not apply to other documents."""
    namespace = f'{attribute}="{"n" * 1000}'
    assert inspect_svg(drawing(content=f'<g {namespace}"/>'), soon()) is not None
    with pytest.raises(UndecodableError, match="a namespace with more than 1,000 characters"):
        inspect_svg(drawing(content=f'<g {namespace}n"/>'), soon())
    assert inspect_svg(f'<rss {namespace}n"/>'.encode(), soon()) is None


def test_default_values_of_the_root_count() -> None:
    """A size may be a default value in the document type. The default values of other elements are never copied."""
    doctype = (
        f'<!DOCTYPE svg [<!ATTLIST svg width CDATA "4" height CDATA "3"><!ATTLIST g a CDATA "{"x" * 1_000_000}">]>'
    )
    before = process_time()
    info = inspect_svg(drawing(before=doctype, content="<g/>" * 20_000), soon())
    assert info is not None
    assert (info.width, info.height) == (4, 3)
    # Copies of the default value would take more than a second.
    assert process_time() - before < 0.5


def test_deadline() -> None:
    """A drawing is not parsed after the deadline."""
    with pytest.raises(FetchTimeoutError, match="before the SVG drawing was parsed"):
        inspect_svg(drawing(), Deadline(0, 0))


@pytest.mark.parametrize(
    "options",
    [
        FetchOptions(formats=_FORMATS, resize=ResizeOptions(ResizeMode.BORDER, 16)),
        FetchOptions(formats=_FORMATS, resize=ResizeOptions(encode_format=EncodeFormat.PNG)),
        FetchOptions(formats=_FORMATS, verify=Verify.DECODE, phash=True, extract_exif=True, max_pixels=100),
        FetchOptions(formats=(ImageFormat.SVG,)),
    ],
)
def test_options_for_pixels_have_no_effect(options: FetchOptions) -> None:
    """A drawing is never changed, and has no facts that need pixels. The same holds for a saved drawing."""
    body = drawing('width="300" height="200"')
    for image in (prepare_image(body, options, soon()), saved_image(body, options, soon())):
        assert (image.body, image.info) == (body, ImageInfo("svg", "svg", 300, 200))
        assert (image.original, image.exif, image.phash) == ((300, 200), None, None)
    whole = prepare_image(body, options, soon())
    kept = existing_image(drawing('width="1" height="1"'), whole, options, soon())
    assert kept is not None
    assert kept.info.width == 1
    assert existing_image(body[:40], whole, options, soon()) is None


def test_filters() -> None:
    """Filters use the size in the drawing. A drawing without a size is excluded, unless there is no filter."""
    sized, unsized = drawing('width="300" height="200"'), drawing()
    filters = FilterOptions(min_size=200)
    assert prepare_image(sized, FetchOptions(formats=_FORMATS, filters=filters), soon()).body == sized
    with pytest.raises(FilteredError, match="the smaller side has 200 pixels"):
        prepare_image(sized, FetchOptions(formats=_FORMATS, filters=FilterOptions(min_size=201)), soon())
    with pytest.raises(FilteredError, match="gives no size in pixels"):
        prepare_image(unsized, FetchOptions(formats=_FORMATS, filters=filters), soon())
    assert prepare_image(unsized, FetchOptions(formats=_FORMATS, filters=NO_FILTER), soon()).original == (None, None)
