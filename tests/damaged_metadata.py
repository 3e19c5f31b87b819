"""Generated images that have intact pixels but large or damaged metadata.

To add an image, add a line in `damaged_metadata`, under the name of the image's format. Every image shows `IMAGE`.
"""

from __future__ import annotations

import struct
import zlib
from functools import cache
from random import Random

from PIL import ExifTags, Image, ImageDraw

from tests.encoding import encoded

_HEADER_END = 33
_NOISE = Random(0).randbytes
#: This is more text than Pillow accepts, both in one chunk and in total.
_LONG = b"comment " * 750_000
_APP1, _APP2, _COMMENT = 0xE1, 0xE2, 0xFE


def _drawn() -> Image.Image:
    image = Image.new("RGB", (96, 64), (200, 60, 30))
    ImageDraw.Draw(image).rectangle((10, 10, 50, 40), fill=(10, 90, 220))
    return image


#: The picture that each image shows, upright and in sRGB.
IMAGE = _drawn()


def chunk(kind: bytes, data: bytes, *, crc_error: int = 0, length_error: int = 0) -> bytes:
    """Return a PNG chunk.

    ``crc_error`` changes the checksum of the chunk, and ``length_error`` changes the length of the chunk.
    """
    crc = zlib.crc32(kind + data) ^ crc_error
    return struct.pack(">I", len(data) + length_error) + kind + data + struct.pack(">I", crc)


def png(*chunks: bytes, after: bytes = b"", image: Image.Image = IMAGE) -> bytes:
    """Return a PNG with additional chunks before and after its pixels."""
    body = encoded(image)
    return body[:_HEADER_END] + b"".join(chunks) + body[_HEADER_END:-12] + after + body[-12:]


def segment(marker: int, data: bytes, *, length_error: int = 0) -> bytes:
    """Return a JPEG segment. ``length_error`` is added to the segment's length."""
    return struct.pack(">BBH", 0xFF, marker, (len(data) + 2 + length_error) % 65536) + data


def jpeg(*segments: bytes, image: Image.Image = IMAGE, **options: object) -> bytes:
    """Return a JPEG with additional segments after its first segment."""
    body = encoded(image, "JPEG", quality=95, subsampling=0, **options)
    return body[:20] + b"".join(segments) + body[20:]


def gif(*blocks: bytes, after: bytes = b"", end: bytes = b";") -> bytes:
    """Return a GIF with additional blocks before and after its frame."""
    body = encoded(IMAGE, "GIF")
    frame = body.index(b"\x2c" + bytes(4))
    return body[:frame] + b"".join(blocks) + body[frame:-1] + after + end


def riff_chunk(kind: bytes, data: bytes, *, length_error: int = 0, pad: bool = True) -> bytes:
    """Return a WebP chunk. The given length can be wrong, and the padding can be missing."""
    return kind + struct.pack("<I", len(data) + length_error) + data + b"\0" * (len(data) % 2 if pad else 0)


def webp(*chunks: bytes, after: bytes = b"", size_error: int = 0, flags: int = 0) -> bytes:
    """Return an extended WebP with additional chunks before and after its pixels."""
    pixels = encoded(IMAGE, "WEBP", lossless=True)[12:]
    sides = b"".join(struct.pack("<I", side - 1)[:3] for side in IMAGE.size)
    extended = riff_chunk(b"VP8X", struct.pack("<I", flags) + sides)
    content = b"WEBP" + extended + b"".join(chunks) + pixels + after
    return b"RIFF" + struct.pack("<I", len(content) + size_error) + content


def tiff(*entries: tuple[int, int, int, bytes], next_page: int = 0, big: bool = False) -> bytes:
    """Return a TIFF with additional tags.

    Args:
        entries: the tag, type, count and value of each entry; the value or its offset has four bytes.
        next_page: the offset of the next page, as the first page gives it.
        big: make a BigTIFF, where values have eight bytes.
    """
    pixels = IMAGE.tobytes()
    width, height = IMAGE.size
    start = 16 if big else 8
    value = struct.Struct("<Q" if big else "<I")

    def entry(tag: int, kind: int, count: int, field: bytes) -> bytes:
        return struct.pack("<HHQ" if big else "<HHI", tag, kind, count) + field.ljust(value.size, b"\0")

    bits = start + len(pixels)
    known = [
        *((tag, 4, 1, value.pack(number)) for tag, number in ((256, width), (257, height))),
        (258, 3, 3, struct.pack("<HHH", 8, 8, 8) if big else value.pack(bits)),
        *((tag, 3, 1, struct.pack("<H", number)) for tag, number in ((259, 1), (262, 2))),
        (273, 4, 1, value.pack(start)),
        *((tag, 3, 1, struct.pack("<H", number)) for tag, number in ((277, 3), (278, height))),
        (279, 4, 1, value.pack(len(pixels))),
    ]
    found = sorted([*known, *entries])
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, bits + 6) if big else struct.pack("<2sHI", b"II", 42, bits + 6)
    directory = struct.pack("<Q" if big else "<H", len(found)) + b"".join(entry(*each) for each in found)
    return header + pixels + struct.pack("<HHH", 8, 8, 8) + directory + value.pack(next_page)


def exif(orientation: int) -> bytes:
    """Return an EXIF block with this orientation."""
    made = Image.Exif()
    made[ExifTags.Base.Orientation] = orientation
    return made.tobytes()


def _profiles(*parts: bytes, total: int | None = None) -> list[bytes]:
    """Return the segments of a JPEG that hold the parts of a colour profile."""
    count = len(parts) if total is None else total
    return [segment(_APP2, b"ICC_PROFILE\0" + bytes([number + 1, count]) + part) for number, part in enumerate(parts)]


def _compressed(kind: bytes, text: bytes) -> bytes:
    before = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"profile\0\0"}[kind]
    return chunk(kind, before + zlib.compress(text))


def _pngs() -> dict[str, bytes]:
    resolution = struct.pack(">IIB", 2835, 2835, 1)
    text = b"Comment\0" + b"some text of some length" * 4
    short = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tRNS": 6, b"acTL": 8, b"fcTL": 26}
    wrong_crc = {
        **{kind: b"\0" * length for kind, length in short.items()},
        **dict.fromkeys((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"prVt"), text),
    }
    return {
        "profile of 1.6 MB": png(_compressed(b"iCCP", _NOISE(700_000) + bytes(900_000))),
        "profile that inflates to 16 MB": png(_compressed(b"iCCP", bytes(16 << 20))),
        "many profiles": png(*[_compressed(b"iCCP", bytes(1 << 20))] * 20),
        "profile with an unknown compression": png(chunk(b"iCCP", b"profile\0\7" + zlib.compress(bytes(100)))),
        "profile without a name": png(chunk(b"iCCP", b"profile")),
        "invalid profile": png(_compressed(b"iCCP", b"no profile")),
        **{f"{kind.decode()} of 6 MB": png(_compressed(kind, _LONG)) for kind in (b"zTXt", b"iTXt")},
        "tEXt of 6 MB": png(chunk(b"tEXt", b"Comment\0" + _LONG)),
        "texts of 6 MB in total": png(*[chunk(b"tEXt", b"Comment\0" + _LONG[: 1 << 20])] * 6),
        "text with an unknown compression": png(chunk(b"zTXt", b"Comment\0\7" + zlib.compress(bytes(100)))),
        "text of 6 MB after the pixels": png(after=_compressed(b"zTXt", _LONG)),
        "XMP of 6 MB": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _LONG)),
        "broken EXIF": png(chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff")),
        "invalid EXIF": png(chunk(b"eXIf", b"nothing")),
        **{
            f"wrong checksum of {kind.decode()}": png(chunk(kind, data, crc_error=0xFFFF))
            for kind, data in wrong_crc.items()
        },
        **{f"empty {kind.decode()}": png(chunk(kind, b"")) for kind in short},
        "text longer than declared": png(chunk(b"tEXt", text, length_error=-5)),
        "text shorter than declared": png(chunk(b"tEXt", text, length_error=5)),
        "text longer than the file": png(chunk(b"tEXt", text, length_error=1 << 30)),
        "resolution longer than declared": png(chunk(b"pHYs", resolution, length_error=-1)),
        "wrong length of the text after the pixels": png(after=chunk(b"tEXt", text, length_error=9)),
        "chunk without a name": png(chunk(b"\0\1\2\3", b"data")),
        "chunk between the pixels": _split_png(chunk(b"tEXt", text)),
        "no end chunk": png()[:-12],
        "truncated end chunk": png()[:-5],
        "trailing zeros": png() + bytes(4096),
        "animation out of order": png(
            chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"fcTL", struct.pack(">I", 7) + bytes(22))
        ),
    }


def _split_png(between: bytes) -> bytes:
    body = encoded(IMAGE)
    start = body.index(b"IDAT") - 4
    data = body[start + 8 : start + 8 + int.from_bytes(body[start : start + 4])]
    return body[:start] + chunk(b"IDAT", data[:20]) + between + chunk(b"IDAT", data[20:]) + chunk(b"IEND", b"")


def _jpegs() -> dict[str, bytes]:
    short = {
        "JFIF": (0xE0, b"JFIF\0"),
        "Adobe": (0xEE, b"Adobe"),
        "Photoshop": (0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
        "MPF": (_APP2, b"MPF\0II*\0"),
        "ICC": (_APP2, b"ICC_PROFILE\0"),
        "EXIF": (_APP1, b"Exif\0\0MM"),
    }
    mpo = encoded(IMAGE, "MPO", save_all=True, append_images=[IMAGE], quality=95, subsampling=0)
    return {
        **{f"truncated {name}": jpeg(segment(*data)) for name, data in short.items()},
        "invalid profile": jpeg(*_profiles(b"no profile")),
        "profile of 8 MB": jpeg(*_profiles(*[_NOISE(65_000)] * 130)),
        "profile with a part missing": jpeg(*_profiles(b"a", b"b", total=3)),
        "EXIF of 2 MB": jpeg(*[segment(_APP1, b"Exif\0\0" + bytes(65_000))] * 32),
        "XMP of 2 MB": jpeg(*[segment(_APP1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(65_000))] * 32),
        "comments of 20 MB": jpeg(segment(_COMMENT, bytes(65_000)) * 300),
        "comment longer than declared": jpeg(segment(_COMMENT, b"comment" * 9, length_error=-20)),
        "comment shorter than declared": jpeg(segment(_COMMENT, b"comment" * 9, length_error=9)),
        "comment longer than the file": jpeg(segment(_COMMENT, b"comment", length_error=60_000)),
        "comment without a length": jpeg(segment(_COMMENT, b"comment", length_error=-9)),
        "bytes between the segments": jpeg(b"stray bytes"),
        "no end marker": jpeg()[:-2],
        "half an end marker": jpeg()[:-1],
        "no end marker, progressive": jpeg(progressive=True)[:-2],
        "no end marker, with restarts": jpeg(restart_marker_blocks=4)[:-2],
        "zeros in place of the end marker": jpeg()[:-2] + bytes(4096),
        "stray bytes after the end": jpeg() + b"stray bytes" * 100,
        "zeros after the end": jpeg() + bytes(4096),
        "truncated later image": mpo[: len(mpo) - 300],
        "missing later image": mpo[: mpo.rindex(b"\xff\xd8\xff")],
        "wrong offset of a later image": mpo.replace(b"MPF\0II*\0", b"MPF\0II*\1"),
    }


def _gifs() -> dict[str, bytes]:
    return {
        "truncated control": gif(b"\x21\xf9\x01\x00\x00"),
        "comment of 8 MB": gif(b"\x21\xfe" + (b"\xff" + bytes(255)) * 32_000 + b"\0"),
        "comment longer than declared": gif(b"\x21\xfe\x05a long comment\0"),
        "unterminated comment": gif(b"\x21\xfe\x07comment"),
        "truncated loop count": gif(b"\x21\xff\x0bNETSCAPE2.0\x01\x01\0"),
        "unknown extension": gif(b"\x21\x77\x03abc\0"),
        "no trailer": gif(end=b""),
        "stray bytes in place of the trailer": gif(end=b"stray, bytes" * 10),
        "extension in place of the trailer": gif(end=b"\x21"),
        "stray bytes after the trailer": gif(end=b";stray bytes"),
    }


def _webps() -> dict[str, bytes]:
    return {
        "file longer than declared": webp(size_error=-6),
        "file shorter than declared": webp(size_error=1000),
        "broken EXIF": webp(after=riff_chunk(b"EXIF", b"MM\0*\xff\xff\xff\xff"), flags=8),
        "invalid profile": webp(riff_chunk(b"ICCP", b"no profile"), flags=32),
        "XMP of 6 MB": webp(after=riff_chunk(b"XMP ", _LONG), flags=4),
        "XMP longer than the file": webp(after=riff_chunk(b"XMP ", b"text", length_error=1000), flags=4),
        "EXIF without its padding": webp(
            riff_chunk(b"ABCD", b"odd", pad=False), after=riff_chunk(b"EXIF", b"odd", pad=False), flags=8
        ),
        "unknown chunk": webp(riff_chunk(b"ABCD", b"data"), after=riff_chunk(b"EFGH", b"data")),
        "announced but missing metadata": webp(flags=8 | 4 | 32),
        "trailing stray bytes": webp() + b"stray bytes",
        "stray bytes counted in the length": webp(after=b"stray"),
    }


def _tiffs() -> dict[str, bytes]:
    beyond, long = struct.pack("<I", 1 << 30), 1 << 20
    tags = {
        "ICC profile": (34675, 7, long, beyond),
        "XMP": (700, 1, long, beyond),
        "EXIF": (34665, 4, 1, beyond),
        "resolution": (282, 5, 1, beyond),
        "software": (305, 2, long, beyond),
        "Photoshop": (34377, 7, long, beyond),
        "sub-pages": (330, 4, long, beyond),
        "orientation": (274, 2, 3, b"up\0\0"),
        "private tag": (50000, 99, long, beyond),
    }
    return {
        **{f"{name} beyond the file": tiff(tag) for name, tag in tags.items()},
        **{f"{name} beyond a BigTIFF": tiff(tag, big=True) for name, tag in tags.items()},
        "all tags": tiff(*tags.values()),
        "resolution as text": tiff((282, 2, 4, b"abc\0"), (283, 2, 4, b"abc\0")),
        "next page beyond the file": tiff(next_page=1 << 30),
        "next page in the pixels": tiff(next_page=9),
        "thousands of tags": tiff(*[(50000 + number, 2, long, beyond) for number in range(9000)]),
    }


def _others() -> dict[str, bytes]:
    bmp, avif = encoded(IMAGE, "BMP"), encoded(IMAGE, "AVIF", quality=100, exif=exif(1))
    return {
        "BMP with a wrong file size": bmp[:2] + b"\1\0\0\0" + bmp[6:],
        "BMP without a file size": bmp[:2] + bytes(4) + bmp[6:],
        "BMP with stray bytes": bmp + b"stray bytes",
        "AVIF with broken EXIF": avif.replace(b"MM\0*", b"nope"),
        "AVIF with an invalid profile": encoded(IMAGE, "AVIF", quality=100, icc_profile=b"no profile"),
        "AVIF with stray bytes": avif + b"stray bytes",
    }


@cache
def damaged_metadata() -> dict[str, bytes]:
    """Return all images, each under a key that names its damage."""
    formats = {"PNG": _pngs(), "JPEG": _jpegs(), "GIF": _gifs(), "WebP": _webps(), "TIFF": _tiffs()}
    named = {f"{kind}: {name}": body for kind, bodies in formats.items() for name, body in bodies.items()}
    return named | _others()
