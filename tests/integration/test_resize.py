"""A fleet resizes images during the download. The other ways of a comparison also resize them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from tasks.image_options import ResizeMode, ResizeOptions
from tests.integration import processes

_SIDE = 64
#: The requests to the demo server, each with the resulting size in pixels.
_SIZES = {
    "images/1.jpg?width=400&height=200": (128, 64),
    "images/2.png?width=300&height=300": (64, 64),
    "images/3.webp?width=90&height=180": (64, 128),
    "images/4.gif?width=40&height=32": (80, 64),
}


def test_run_resizes(fleet: str, demo_url: str, out: Path) -> None:
    """Workers save every image as a JPEG of the requested size. The rows have both the original and the saved size."""
    urls = [*(f"{demo_url}/{path}" for path in _SIZES), f"{demo_url}/fault/broken-image", f"{demo_url}/fault/html"]
    options = ("--resize", "keep_ratio", "--image-size", str(_SIDE), "--broker", fleet, "--json")
    facts = processes.producer("run", "-", "--out", out, *options, stdin="\n".join(urls).encode()).json()
    assert (facts["success"], facts["reasons"]) == (len(_SIZES), {"undecodable": 1, "not_image": 1})
    fetch = json.loads((out / "run.json").read_text())["options"]["fetch"]
    assert ResizeOptions.from_json(fetch["resize"]) == ResizeOptions(ResizeMode.KEEP_RATIO, _SIDE)
    rows = processes.rows(out)
    assert {row["status"] for row in rows[-2:]} == {"failed_to_resize"}
    for row, (path, size) in zip(rows, _SIZES.items(), strict=False):
        body = (out / row["path"]).read_bytes()
        assert row["path"] == f"00000/{row['key']}.jpg"
        assert (row["format"], row["bytes"], row["sha256"]) == ("jpeg", len(body), hashlib.sha256(body).hexdigest())
        assert (row["width"], row["height"]) == size
        requested = dict(item.split("=") for item in path.partition("?")[2].split("&"))
        assert (row["original_width"], row["original_height"]) == (int(requested["width"]), int(requested["height"]))
        with Image.open(out / row["path"]) as saved:
            saved.load()
            assert (saved.format, saved.size) == ("JPEG", size)
    assert processes.image_files(out) == {row["path"] for row in rows if row["path"]}


def test_all_ways_resize_alike(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """The three ways (one by one, threads, the fleet) save the same files from the same list."""
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/{path}\n" for path in _SIZES))
    ended = processes.producer(
        *("compare", source, "--out", out, "--broker", fleet, "--json"),
        *("--resize", "keep_ratio", "--image-size", str(_SIDE)),
        env={"IMAGEFLEET_ALLOW_NETWORKS": demo_url.removeprefix("http://")},
    )
    ways = [Path(way["out"]) for way in ended.json()["ways"]]
    files = [{name: (way / name).read_bytes() for name in processes.image_files(way)} for way in ways]
    assert len(files[0]) == len(_SIZES)
    assert files[0] == files[1] == files[2]
    assert {(row["width"], row["height"]) for row in processes.rows(ways[0])} == set(_SIZES.values())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--resize", "crop"], "'crop' is not one of 'no', 'border'"),
        (["--resize", "keep_ratio", "--image-size", "0"], "1<=x<=10000"),
        (["--image-size", "64"], "add --resize keep_ratio"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: list[str], named: str) -> None:
    """An unknown resize mode, a size of 0, and a size without a resize mode are reported before anything starts."""
    (tmp_path / "list.txt").write_text("http://127.0.0.1/1.jpg\n")
    ended = processes.producer("run", tmp_path / "list.txt", "--out", tmp_path / "out", *options)
    assert (ended.code, ended.out) == (2, "")
    assert named in ended.err
    assert not (tmp_path / "out").exists()
