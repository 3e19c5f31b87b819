"""Real workers save SVG drawings and JPEG XL images in each output format."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import required_module
from tests.encoding import encoded
from tests.integration import processes
from tests.integration.test_outputs import members

required_module("pillow_jxl")
import pillow_jxl  # noqa: E402, F401  # registers the encoder

_BODIES = {
    "sized.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="300" height="200"><script>alert(1)</script></svg>',
    # A wrong extension.
    "unsized.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "photo.jxl": encoded(Image.new("RGB", (90, 70), "green"), "JXL", quality=90),
    "truncated.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><g>',
}
_SIZES = [(300, 200), (None, None), (90, 70), (None, None)]
_EXTENSIONS = ["svg", "svg", "jxl"]
_NAMES = [f"0000000{number}.{extension}" for number, extension in enumerate(_EXTENSIONS)]
_SAVED = list(_BODIES.values())[:3]
_FORMATS = ("--formats", "default,svg,jxl", "--json")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[bytes]:
    """Give a list of URLs of a server with all the files."""
    files = tmp_path / "files"
    files.mkdir()
    for name, body in _BODIES.items():
        (files / name).write_bytes(body)
    with processes.file_server(tmp_path, files) as port:
        yield "".join(f"http://127.0.0.1:{port}/{name}\n" for name in _BODIES).encode()


def save(out: Path, fleet: str, served: bytes, *options: str) -> list[dict[str, Any]]:
    """Run with these options; return the rows of the manifest."""
    facts = processes.producer("run", "-", "--out", out, "--broker", fleet, *_FORMATS, *options, stdin=served).json()
    assert (facts["success"], facts["reasons"]) == (3, {"undecodable": 1})
    return processes.rows(out)


def test_files(fleet: str, served: bytes, out: Path) -> None:
    """Files hold the original bytes. A drawing without a size has nulls in its row. Saved files are recovered."""
    rows = save(out, fleet, served, "--sidecar", "json")
    assert [(row["width"], row["height"]) for row in rows] == _SIZES
    assert [row["format"] for row in rows] == [*_EXTENSIONS, None]
    assert rows[3]["error_message"].startswith("the SVG drawing is damaged: ")
    assert [(out / "00000" / name).read_bytes() for name in _NAMES] == _SAVED
    assert json.loads((out / "00000/00000001.json").read_bytes())["height"] is None
    # Without its manifest, the shard is collected again from the saved files.
    (out / "00000.parquet").unlink()
    assert processes.producer("resume", out, "--broker", fleet, "--json").json()["success"] == 3
    again = processes.rows(out)
    assert [(row["recovered"], row["width"]) for row in again] == [(True, 300), (True, None), (True, 90), (False, None)]


@pytest.mark.slow
def test_packed(fleet: str, served: bytes, out: Path) -> None:
    """Tars and Parquet files hold the original bytes, and nulls for a drawing without a size."""
    rows = save(out / "tar", fleet, served, "--output-format", "webdataset")
    assert [(row["width"], row["height"]) for row in rows] == _SIZES
    tar = members(out / "tar/00000.tar")
    assert [tar[name] for name in _NAMES] == _SAVED
    assert [json.loads(tar[f"0000000{number}.json"])["width"] for number in range(3)] == [300, None, 90]
    save(out / "parquet", fleet, served, "--output-format", "parquet")
    packed = pq.read_table(out / "parquet/00000/images.parquet")
    assert packed["image"].to_pylist() == _SAVED
    assert packed["width"].to_pylist() == [300, None, 90]


@pytest.mark.slow
def test_resized_and_refreshed(fleet: str, served: bytes, out: Path) -> None:
    """If a run resizes images, drawings keep their bytes. A refreshed run reuses drawings without a size too."""
    resize = ("--resize", "border", "--image-size", "32")
    rows = save(out / "old", fleet, served, *resize)
    assert [row["format"] for row in rows] == ["svg", "svg", "jpeg", None]
    assert (out / "old" / rows[0]["path"]).read_bytes() == _BODIES["sized.svg"]
    resized = Image.open(io.BytesIO((out / "old" / rows[2]["path"]).read_bytes()))
    assert (resized.size, rows[2]["original_width"]) == ((32, 32), 90)
    reused = save(out / "new", fleet, served, *resize, "--refresh-from", str(out / "old"))
    assert [row["http_status"] for row in reused] == [304, 304, 304, 200]
    assert [(row["width"], row["format"]) for row in reused][:2] == [(300, "svg"), (None, "svg")]
