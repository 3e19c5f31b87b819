"""Identify file formats by their first bytes, to name the format of a rejected body in its error message.

No existing library fits. The library filetype 1.2 (of 2022) does not know JPEG XL, SVG, OpenEXR or FITS. The library
puremagic 1.30 identifies zeros as an embroidery design and a cursor as a spreadsheet. The library python-magic needs a
C library that no wheel contains. Error messages also need format names that people know.

To add a format, add a line to `_IMAGES` or `_OTHERS`, and a header to ``tests/unit/images/test_file_signatures.py``.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

#: Number of bytes to search at the start of a text, for its first words or for a tag such as ``<svg>``.
_TEXT_START_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Format:
    """A file format: its name with an article, and whether its files are images."""

    name: str
    is_image: bool


#: Image formats that are recognised, but not saved. In a pattern, dots stand for bytes before the format's mark.
_IMAGES = {
    "a HEIC image": rb"....ftyp(?:hei[cxms]|hev[cxms])|....ftyp(?:mif1|msf1|miaf)....(?:....){0,15}?hei[cx]",
    "a HEIF image": rb"....ftyp(?:mif[123]|msf1|miaf)(?!....(?:....){0,15}?avi[fs])",
    "a JPEG XL image": rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n",
    "a JPEG 2000 image": rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "a JPEG XS image": rb"\xff\x10\xff\x50|\x00\x00\x00\x0cJXS \r\n\x87\n",
    "a JPEG XR image": rb"II\xbc[\x00\x01]",
    "a JPEG-LS image": rb"\xff\xd8\xff\xf7",
    "a JBIG2 image": rb"\x97JB2\r\n\x1a\n",
    "a Photoshop image (PSD)": rb"8BPS\x00[\x01\x02]",
    "a GIMP image (XCF)": rb"gimp xcf ",
    "a Windows cursor (CUR)": rb"\x00\x00\x02\x00[^\x00]\x00",
    "an animated cursor (ANI)": rb"RIFF....ACON",
    "an Apple icon (ICNS)": rb"icns\x00",
    "an MNG animation": rb"\x8aMNG\r\n\x1a\n",
    "a JNG image": rb"\x8bJNG\r\n\x1a\n",
    "a QOI image": rb"qoif.{8}[\x03\x04][\x00\x01]",
    "a FLIF image": rb"FLIF[1-\x7f]",
    "a BPG image": rb"BPG\xfb",
    "a PCX image": rb"\x0a[\x00\x02-\x05][\x00\x01][\x01\x02\x04\x08]",
    "an OpenEXR image": rb"\x76\x2f\x31\x01",
    "a Radiance HDR image": rb"#\?(?:RADIANCE|RGBE)\n",
    "a DDS texture": rb"DDS \x7c\x00\x00\x00",
    "a KTX texture": rb"\xabKTX [12][01]\xbb\r\n\x1a\n",
    "a FITS image": rb"SIMPLE  = +T",
    "a DICOM image": rb".{128}DICM",
    "a DjVu document": rb"AT&TFORM....DJV[UMI]",
    "a Netpbm image": rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+|P7\nWIDTH",
    "an XPM image": rb"/\* XPM \*/",
    "an XBM image": rb"#define \S+_width \d+\s",
    "an SGI image": rb"\x01\xda[\x00\x01][\x01\x02]",
    "a Sun raster image": rb"\x59\xa6\x6a\x95",
    "an ILBM image": rb"FORM....(?:ILBM|PBM )",
    "a Windows metafile (WMF)": rb"\xd7\xcd\xc6\x9a",
    "a Windows metafile (EMF)": rb"\x01\x00\x00\x00.{36} EMF",
    "a raw photo (Canon CR2)": rb"II\*\x00....CR",
    "a raw photo (Canon CR3)": rb"....ftypcrx ",
    "a raw photo (Canon CRW)": rb"II....HEAPCCDR",
    "a raw photo (Olympus ORF)": rb"IIR[OS]|MMOR",
    "a raw photo (Panasonic RW2)": rb"IIU\x00",
    "a raw photo (Fujifilm RAF)": rb"FUJIFILMCCD-RAW ",
    "a raw photo (Sigma X3F)": rb"FOVb",
    "a raw photo (Minolta MRW)": rb"\x00MRM",
    # A DNG is a TIFF with the tag for DNG's version. A raw photo that Pillow can open as a TIFF counts as a TIFF
    # instead.
    "a raw photo (DNG)": rb"(?:II\*\x00|MM\x00\*).{0,999}?(?:\x12\xc6\x01\x00\x04\x00|\xc6\x12\x00\x01\x00\x00)",
    "a raw photo (Nikon NEF)": rb"(?:II\*\x00|MM\x00\*).{0,999}NIKON CORPORATION",
    "a raw photo (Sony ARW)": rb"II\*\x00.{0,999}SONY",
    "a raw photo (Pentax PEF)": rb"(?:II\*\x00|MM\x00\*).{0,999}PENTAX",
    "an EPS or PostScript file": rb"%!PS|\xc5\xd0\xd3\xc6|\x04%!PS",
}
#: Other formats that servers send.
_OTHERS = {
    "a PDF document": rb".{0,999}?%PDF-\d",
    "a QuickTime video": rb"....ftypqt  |....(?:moov|mdat|wide)",
    "an audio file (M4A)": rb"....ftypM4[AB]",
    "an MP4 video": rb"....ftyp",
    "a WebM video": rb"\x1a\x45\xdf\xa3.{0,60}webm",
    "a Matroska video": rb"\x1a\x45\xdf\xa3",
    "an AVI video": rb"RIFF....AVI ",
    "a Flash video": rb"FLV\x01",
    "a Flash animation": rb"[FCZ]WS[\x01-\x40]",
    "a Windows Media file": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "an MPEG video": rb"\x00\x00\x01[\xba\xb3]|\x47.{187}\x47.{187}\x47",
    "an Ogg video": rb"OggS.{24,64}?\x80theora",
    "an Ogg audio file": rb"OggS",
    "an audio file (WAV)": rb"RIFF....WAVE",
    "an audio file (AIFF)": rb"FORM....AIF[FC]",
    "an audio file (MP3)": rb"ID3[\x02-\x04]|\xff[\xfa\xfb\xf2\xf3]",
    "an audio file (AAC)": rb"\xff[\xf0\xf1\xf8\xf9]",
    "an audio file (FLAC)": rb"fLaC",
    "an audio file (MIDI)": rb"MThd\x00\x00\x00\x06",
    "an Office document": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|PK\x03\x04.{26,999}?(?:word|xl|ppt)/",
    "a ZIP archive": rb"PK[\x03\x05][\x04\x06]",
    "a 7-Zip archive": rb"7z\xbc\xaf\x27\x1c",
    "a RAR archive": rb"Rar!\x1a\x07",
    "a tar archive": rb".{257}ustar",
    "a gzip file": rb"\x1f\x8b\x08",
    "a bzip2 file": rb"BZh[1-9]1AY&SY",
    "an xz file": rb"\xfd7zXZ\x00",
    "a Zstandard file": rb"\x28\xb5\x2f\xfd",
    "a web font": rb"wOF[F2]",
    "a font": rb"OTTO\x00|\x00\x01\x00\x00\x00[^\x00]|ttcf\x00",
    "a program": rb"MZ.{58,999}?PE\x00\x00|\x7fELF",
    "a Parquet file": rb"PAR1",
    "a database (SQLite)": rb"SQLite format 3\x00",
    "an RTF document": rb"\{\\rtf",
    "a Git LFS pointer": rb"version https://git-lfs\.",
    "a data: URL": rb"data:[a-z]+/",
}
_SIGNATURES = [
    (Format(name, is_image), re.compile(pattern, re.DOTALL))
    for names, is_image in ((_IMAGES, True), (_OTHERS, False))
    for name, pattern in names.items()
]
SVG = Format("an SVG drawing", is_image=True)
_SVGZ = Format("a compressed SVG drawing (SVGZ)", is_image=True)
_HTML = Format("an HTML page", is_image=False)
_XML, _JSON = Format("an XML document", is_image=False), Format("JSON", is_image=False)
_TEXT, _ZEROS = Format("plain text", is_image=False), Format("nothing but zero bytes", is_image=False)
_GZIP = "a gzip file"
_TGA = Format("a TGA image", is_image=True)
_TGA_END = b"TRUEVISION-XFILE.\0"
_JSON_START = re.compile(rb"[\[{]\s*(?:[\"\[{\]}]|-?\d|true|false|null)")
_TAG = re.compile(
    rb"<(?:(!doctype\s+svg|svg\b)|(!doctype\s+html|html|head|body|title|script|meta|div|p|a|h1|center|pre|table)\b)",
    re.IGNORECASE,
)
_ELEMENT = re.compile(rb"<[?!a-z]", re.IGNORECASE)
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def identify_format(body: bytes) -> Format | None:
    """Return the format of bytes that are not an accepted image, or None if the format is unknown."""
    for known, signature in _SIGNATURES:
        if signature.match(body):
            return _SVGZ if known.name == _GZIP and _is_compressed_svg(body) else known
    if body.endswith(_TGA_END):
        return _TGA
    if body and not body.strip(b"\0"):
        return _ZEROS
    return _identify_text(body[:_TEXT_START_BYTES])


def _identify_text(start: bytes) -> Format | None:
    """Return the kind of a text from its first bytes, or None if it is not a text."""
    if encoding := _UTF16.get(start[:2]):
        start = start[2:].decode(encoding, "ignore").encode("utf-8", "ignore")
    words = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _JSON_START.match(words):
        return _JSON
    if _ELEMENT.match(words):
        tag = _TAG.search(words)
        return _XML if tag is None else SVG if tag[1] else _HTML
    # The last character may be truncated.
    text = words.decode("utf-8", "replace")[:-1]
    is_text = all(character.isprintable() or character.isspace() for character in text) and "\ufffd" not in text
    return _TEXT if text and is_text else None


def _is_compressed_svg(body: bytes) -> bool:
    try:
        return _identify_text(zlib.decompressobj(31).decompress(body, _TEXT_START_BYTES)) is SVG
    except zlib.error:
        return False
