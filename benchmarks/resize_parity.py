"""Resize the same mixed pictures with imagefleet and img2dataset, and explain each difference.

``python -m benchmarks.resize_parity`` writes the table into ``docs/from-img2dataset.md``. It fails if a kind of picture
differs without an explanation here.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat

from benchmarks.mixed_pictures import KINDS, pictures
from benchmarks.peer import running_peer, write_table
from benchmarks.peer_resizer import SIZE
from tasks.deadline import Deadline
from tasks.errors import FetchError
from tasks.image_options import EncodeFormat, Interpolation, ResizeMode, ResizeOptions
from tasks.images.identify import EncodedImage
from tasks.images.resize import resize_image

_COUNT = 2000
_MAX_PIXELS = 100_000_000
#: Two images count as the same if the mean difference of their levels (0 to 255) is at most this number. Encoding at
#: quality 95 alone causes a difference of about one level. A shift by one pixel causes a larger difference than this
#: number.
_TOLERANCE = 4.0
_TURNED = "imagefleet turns the image upright; img2dataset ignores the EXIF orientation"
#: Why a kind of picture differs.
_REASONS = {
    **{f"JPEG with EXIF orientation {number}": _TURNED for number in range(2, 9)},
    "black and white PNG": "the dots of the dithering: the programs weigh neighbouring pixels differently",
    "16-bit PNG": "imagefleet scales 16 bits to 8; img2dataset cuts all levels off at 255, so its image is white",
    "ICO": "OpenCV does not read the format",
}


def main() -> int:
    """Compare all modes; return the exit status."""
    drawn = list(pictures(_COUNT))
    found: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder, running_peer() as peer:
        sources = Path(folder) / "pictures"
        sources.mkdir()
        for name, _, body in drawn:
            (sources / name).write_bytes(body)
        for mode in ResizeMode:
            out = Path(folder) / mode.value
            out.mkdir()
            theirs = peer.resize_all(sources, out, mode.value)["results"]
            for name, kind, body in drawn:
                found[kind][_compare(_resize(body, mode), theirs[name], out / name)] += 1
            print(mode, sum(counts["same"] for counts in found.values()), flush=True)
    write_table("resize-parity", _table(found))
    unexplained = [kind for kind, counts in found.items() if counts["same"] < counts.total() and kind not in _REASONS]
    print("unexplained:", ", ".join(unexplained) or "none")
    return 1 if unexplained else 0


def _resize(body: bytes, mode: ResizeMode) -> EncodedImage | FetchError:
    options = ResizeOptions(mode, SIZE, 95, encode_format=EncodeFormat.JPG, downscale=Interpolation.AREA)
    try:
        return resize_image(body, options, _MAX_PIXELS, Deadline(60, 60))
    except FetchError as error:
        return error


def _compare(ours: EncodedImage | FetchError, theirs: dict[str, Any], path: Path) -> str:
    """Return how two results differ, or ``same``."""
    if isinstance(ours, FetchError) or theirs["error"] is not None:
        if isinstance(ours, FetchError) and theirs["error"] is not None:
            return "same"
        return "only img2dataset saves it" if isinstance(ours, FetchError) else "only imagefleet saves it"
    if theirs["size"] != [ours.info.width, ours.info.height] or theirs["original"] != list(ours.original):
        return "another size"
    with Image.open(io.BytesIO(ours.body)) as one, Image.open(path) as other:
        means = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean
    return "same" if sum(means) / len(means) <= _TOLERANCE else "other pixels"


def _table(found: dict[str, Counter[str]]) -> str:
    lines = ["| pictures | compared | same | different | why |", "|---|---|---|---|---|"]
    alike = [kind for kind in KINDS if found[kind]["same"] == found[kind].total()]
    compared = sum(found[kind].total() for kind in alike)
    lines.append(f"| {', '.join(alike)} | {compared:,} | {compared:,} | | |")
    for kind in KINDS:
        if kind not in alike:
            counts = found[kind]
            different = ", ".join(f"{what}: {number}" for what, number in counts.most_common() if what != "same")
            why = _REASONS.get(kind, "not explained")
            lines.append(f"| {kind} | {counts.total()} | {counts['same']} | {different} | {why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
