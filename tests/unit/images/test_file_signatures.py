"""If a body is not saved, the error names its format. The format is found by the body's first bytes."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import NotAnImageError, UndecodableError
from tasks.images.file_signatures import _IMAGES, _OTHERS, identify_format
from tasks.images.identify import EXTENSIONS, inspect
from tests.unit.conftest import image

_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
_REST = bytes(400)


def _box(brand: bytes, *compatible: bytes) -> bytes:
    """Return the first box of a file in ISO's base media format."""
    return struct.pack(">I4s4sI", 16 + 4 * len(compatible), b"ftyp", brand, 0) + b"".join(compatible) + _REST


def _ebml(kind: bytes) -> bytes:
    """Return the header of a Matroska or WebM file."""
    return b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\x82" + bytes([0x80 + len(kind)]) + kind + _REST


def _zip(name: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, "text")
    return sink.getvalue()


def _tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("name"))
    return sink.getvalue()


def _tiff(*entries: bytes, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(entries)) + b"".join(entries) + _REST


_IMAGE_HEADERS = {
    "a HEIC image": [_box(b"heic", b"mif1", b"heic"), _box(b"hevc"), _box(b"mif1", b"mif1", b"heic", b"MiHE")],
    "a HEIF image": [_box(b"mif1", b"mif1", b"jpeg"), _box(b"msf1")],
    "a JPEG XL image": [b"\xff\x0a\xfa\x7f\x01\x90" + _REST, b"\0\0\0\x0cJXL \r\n\x87\n" + _REST],
    "a JPEG 2000 image": [image("JPEG2000"), b"\xff\x4f\xff\x51\0\x2f" + _REST],
    "a JPEG XS image": [b"\xff\x10\xff\x50\0\0" + _REST],
    "a JPEG XR image": [b"II\xbc\x01\x20\0\0\0" + _REST],
    "a JPEG-LS image": [b"\xff\xd8\xff\xf7\0\x0b\x08\0\4\0\4\1\1\x11\0" + _REST],
    "a JBIG2 image": [b"\x97JB2\r\n\x1a\n\1\0\0\0\1" + _REST],
    "a Photoshop image (PSD)": [b"8BPS\0\1" + _REST, b"8BPS\0\2" + _REST],
    "a GIMP image (XCF)": [b"gimp xcf v011\0" + _REST],
    "a Windows cursor (CUR)": [b"\0\0\2\0\1\0\x20\x20\0\0" + _REST],
    "an animated cursor (ANI)": [b"RIFF\0\1\0\0ACONanih" + _REST],
    "an Apple icon (ICNS)": [image("ICNS", (16, 16))],
    "an MNG animation": [b"\x8aMNG\r\n\x1a\n\0\0\0\x1cMHDR" + _REST],
    "a JNG image": [b"\x8bJNG\r\n\x1a\n\0\0\0\x10JHDR" + _REST],
    "a QOI image": [b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + _REST],
    "a FLIF image": [b"FLIF31" + _REST],
    "a BPG image": [b"BPG\xfb\x20\0" + _REST],
    "a PCX image": [image("PCX")],
    "an OpenEXR image": [b"\x76\x2f\x31\x01\2\0\0\0" + _REST],
    "a Radiance HDR image": [b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n"],
    "a DDS texture": [image("DDS")],
    "a KTX texture": [b"\xabKTX 11\xbb\r\n\x1a\n" + _REST, b"\xabKTX 20\xbb\r\n\x1a\n" + _REST],
    "a FITS image": [b"SIMPLE  =                    T / standard" + b" " * 400],
    "a DICOM image": [bytes(128) + b"DICM\2\0" + _REST],
    "a DjVu document": [b"AT&TFORM\0\0\1\0DJVUINFO" + _REST, b"AT&TFORM\0\0\1\0DJVMDIRM" + _REST],
    "a Netpbm image": [image("PPM"), b"P1\n# made by hand\n2 2\n0 1 1 0\n", b"P7\nWIDTH 2\nHEIGHT 2\n"],
    "an XPM image": [b"/* XPM */\nstatic char *a[] = {"],
    "an XBM image": [b"#define a_width 8\n#define a_height 8\n"],
    "an SGI image": [image("SGI")],
    "a Sun raster image": [b"\x59\xa6\x6a\x95" + _REST],
    "an ILBM image": [b"FORM\0\0\1\0ILBMBMHD" + _REST],
    "a Windows metafile (WMF)": [b"\xd7\xcd\xc6\x9a" + _REST],
    "a Windows metafile (EMF)": [b"\1\0\0\0" + bytes(36) + b" EMF" + _REST],
    "a raw photo (Canon CR2)": [b"II*\0\x10\0\0\0CR\2\0" + _REST],
    "a raw photo (Canon CR3)": [_box(b"crx ", b"crx ", b"isom")],
    "a raw photo (Canon CRW)": [b"II\x1a\0\0\0HEAPCCDR" + _REST],
    "a raw photo (Olympus ORF)": [b"IIRO\x08\0\0\0" + _REST],
    "a raw photo (Panasonic RW2)": [b"IIU\0\x18\0\0\0" + _REST],
    "a raw photo (Fujifilm RAF)": [b"FUJIFILMCCD-RAW 0201" + _REST],
    "a raw photo (Sigma X3F)": [b"FOVb\2\0\2\0" + _REST],
    "a raw photo (Minolta MRW)": [b"\0MRM" + _REST],
    "a raw photo (DNG)": [
        _tiff(struct.pack("<HHI4B", 50706, 1, 4, 1, 4, 0, 0)),
        _tiff(struct.pack(">HHI4B", 50706, 1, 4, 1, 4, 0, 0), order=">"),
    ],
    "a raw photo (Nikon NEF)": [_tiff(order=">") + b"NIKON CORPORATION\0NIKON D70\0"],
    "a raw photo (Sony ARW)": [_tiff() + b"SONY \0DSLR-A100"],
    "a raw photo (Pentax PEF)": [_tiff(order=">") + b"PENTAX Corporation \0"],
    "an EPS or PostScript file": [image("EPS"), b"\xc5\xd0\xd3\xc6\x20\0\0\0" + _REST],
    "an SVG drawing": [
        _SVG,
        b"<?xml version='1.0'?>\n<!-- drawn -->\n" + _SVG,
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN">' + _SVG,
    ],
    "a compressed SVG drawing (SVGZ)": [gzip.compress(_SVG, mtime=0)],
    "a TGA image": [image("TGA")],
}
_OTHER_HEADERS = {
    "a PDF document": [b"%PDF-1.7\n", b"\xef\xbb\xbf\r\n%PDF-1.4\n", image("PDF")],
    "a QuickTime video": [_box(b"qt  "), b"\0\0\0\x08wide\0\0\1\0mdat" + _REST],
    "an MP4 video": [_box(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), _box(b"3gp5"), _box(b"mp42")],
    "an audio file (M4A)": [_box(b"M4A ", b"isom")],
    "a WebM video": [_ebml(b"webm")],
    "a Matroska video": [_ebml(b"matroska")],
    "an AVI video": [b"RIFF\0\1\0\0AVI LIST" + _REST],
    "a Flash video": [b"FLV\1\5\0\0\0\x09" + _REST],
    "a Flash animation": [b"CWS\x08" + _REST],
    "a Windows Media file": [b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + _REST],
    "an MPEG video": [b"\0\0\1\xba\x44" + _REST, b"\0\0\1\xb3\x14" + _REST, (b"\x47\x40\0\x10" + bytes(184)) * 4],
    "an Ogg video": [b"OggS\0\2" + bytes(20) + b"\1\x2a\x80theora" + _REST],
    "an Ogg audio file": [b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis" + _REST],
    "an audio file (WAV)": [b"RIFF\0\1\0\0WAVEfmt " + _REST],
    "an audio file (AIFF)": [b"FORM\0\0\1\0AIFFCOMM" + _REST],
    "an audio file (MP3)": [b"ID3\3\0\0\0\0\0\0" + _REST, b"\xff\xfb\x90\x64" + _REST],
    "an audio file (AAC)": [b"\xff\xf1\x50\x80" + _REST],
    "an audio file (FLAC)": [b"fLaC\0\0\0\x22" + _REST],
    "an audio file (MIDI)": [b"MThd\0\0\0\6\0\1" + _REST],
    "an Office document": [_zip("word/document.xml"), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + _REST],
    "a ZIP archive": [_zip("photo.jpg")],
    "a 7-Zip archive": [b"7z\xbc\xaf\x27\x1c\0\4" + _REST],
    "a RAR archive": [b"Rar!\x1a\x07\1\0" + _REST],
    "a tar archive": [_tar()],
    "a gzip file": [gzip.compress(b"text", mtime=0), gzip.compress(b"<html>", mtime=0)],
    "a bzip2 file": [b"BZh91AY&SY" + _REST],
    "an xz file": [b"\xfd7zXZ\0\0\4" + _REST],
    "a Zstandard file": [b"\x28\xb5\x2f\xfd\4\0" + _REST],
    "a web font": [b"wOF2\0\1\0\0" + _REST],
    "a font": [b"OTTO\0\x0b" + _REST],
    "a program": [b"\x7fELF\2\1\1" + _REST, b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + _REST],
    "a Parquet file": [b"PAR1\x15\4" + _REST],
    "a database (SQLite)": [b"SQLite format 3\0" + _REST],
    "an RTF document": [rb"{\rtf1\ansi hello}"],
    "a Git LFS pointer": [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"],
    "a data: URL": [b"data:image/png;base64,iVBORw0KGgo="],
    "an HTML page": [
        b"<!doctype html><title>Sign in</title>",
        b"\r\n  <HTML><BODY>",
        b"\xef\xbb\xbf<html>",
        b"<!-- served by -->\n<html>",
        b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
        b'<!doctype html><body><svg viewBox="0 0 1 1"></svg>',
        b"<html><title>All about svg files</title>",
        b"<p>gone</p>",
        "\ufeff<html>".encode("utf-16-le"),
        b"<html><title>Stra\xdfe</title>",
    ],
    "an XML document": [b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", b"<rss version='2.0'>"],
    "JSON": [b' {"error": "no picture"}', b"[1, 2]", b"{}"],
    "plain text": [b"404 not found\n", "nicht gefunden: größer".encode(), "é".encode() * 600],
    "nothing but zero bytes": [b"\0", bytes(5000)],
}


_CASES = [(name, body) for name, bodies in (_IMAGE_HEADERS | _OTHER_HEADERS).items() for body in bodies]


def _bodies(headers: dict[str, list[bytes]]) -> pytest.MarkDecorator:
    """Run a test for each body. The test's id is a format and a number, because the body may contain the time."""
    cases = [
        pytest.param(name, body, id=f"{name} {number}")
        for name, bodies in headers.items()
        for number, body in enumerate(bodies)
    ]
    return pytest.mark.parametrize(("name", "body"), cases)


@_bodies(_IMAGE_HEADERS)
def test_image_of_another_format_is_named(name: str, body: bytes) -> None:
    """An unsupported image format is named, and is not reported as a broken image."""
    with pytest.raises(NotAnImageError) as caught:
        inspect(body, 1_000_000)
    assert str(caught.value) == f"the body is {name}, a format that imagefleet does not save"


@_bodies(_OTHER_HEADERS)
def test_body_that_is_not_an_image_is_named(name: str, body: bytes) -> None:
    """The error also tells whether the body is a web page, a video or an archive."""
    with pytest.raises(NotAnImageError) as caught:
        inspect(body, 1_000_000)
    assert str(caught.value) == f"the body is {name}, not an image"


def test_every_format_is_tested() -> None:
    """Every entry of the tables has a test."""
    assert set(_IMAGES) <= set(_IMAGE_HEADERS)
    assert set(_OTHERS) <= set(_OTHER_HEADERS)


@pytest.mark.parametrize("body", [bytes(range(256)), b"\x80\x81 text", b""], ids=["all", "text", "none"])
def test_unknown_bytes_have_no_name(body: bytes) -> None:
    """No format is guessed for unknown bytes."""
    assert identify_format(body) is None


@pytest.mark.parametrize("kind", sorted(set(EXTENSIONS) - {"MPO", "HEIF", "JPEG2000", "JXL", "SVG"}))
def test_broken_image_of_an_accepted_format_is_undecodable(kind: str) -> None:
    """A body that starts as an accepted format but is broken fails as `undecodable`."""
    body = image(kind, (16, 12))
    cut = body[: {"BMP": 20, "TIFF": 12, "ICO": 30}.get(kind, 16)]
    with pytest.raises(UndecodableError, match="header is broken"):
        inspect(cut, 1_000_000)


@given(st.binary(max_size=80), st.sampled_from(_CASES), st.integers(0, 80))
def test_any_bytes_are_named_or_unknown(more: bytes, case: tuple[str, bytes], cut: int) -> None:
    """Identifying a header raises no error, however the header is cut and continued."""
    found = identify_format(case[1][:cut] + more)
    assert found is None or found.name
