"""Real workers download images as real servers have them: with damaged metadata and in other formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from tests.damaged_metadata import IMAGE, damaged_metadata
from tests.encoding import encoded
from tests.integration import processes

_OTHERS = {
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "the body is a HEIC image"),
    "film.mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomavc1" + bytes(400), "the body is an MP4 video"),
    "half.jpg": (
        encoded(Image.effect_noise((64, 48), 50), "JPEG")[:1000],
        "the image is truncated: pixels are missing",
    ),
}


#: The large images are left out because they take seconds. Unit tests read the large images.
_IMAGES = {name: body for name, body in damaged_metadata().items() if len(body) < 100_000}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Give the URL of a server with all the damaged images, and with files that can't be saved."""
    files = tmp_path / "files"
    files.mkdir()
    for name, body in [*_IMAGES.items(), *((name, body) for name, (body, _) in _OTHERS.items())]:
        (files / name).write_bytes(body)
    with processes.file_server(tmp_path, files) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("options", [("--verify", "decode"), ("--resize", "keep_ratio", "--image-size", "64")])
def test_run_saves_every_image_with_intact_pixels(fleet: str, served: str, out: Path, options: tuple[str, ...]) -> None:
    """Workers save each damaged image, byte for byte unless they resize it.

    For files that can't be saved, workers name the reason.
    """
    urls = "".join(f"{served}/{quote(name)}\n" for name in [*_IMAGES, *_OTHERS])
    command = ("run", "-", "--out", out, "--broker", fleet, "--json")
    facts = processes.producer(*command, *options, stdin=urls.encode()).json()
    assert (facts["success"], facts["reasons"]) == (len(_IMAGES), {"not_image": 2, "undecodable": 1})
    rows = processes.rows(out)
    for row, body in zip(rows, _IMAGES.values(), strict=False):
        assert (row["original_width"], row["original_height"]) == IMAGE.size
        assert row["exif"] is None
        if options[0] == "--verify":
            assert (out / row["path"]).read_bytes() == body
    for row, (_, message) in zip(rows[len(_IMAGES) :], _OTHERS.values(), strict=True):
        assert row["error_message"].startswith(message)
