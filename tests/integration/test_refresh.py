"""A refresh of a previous run costs one 304 response for each unchanged image. Other images are downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from producer.output.run_file import PlanState, RunFile
from tasks.storage.local_store import LocalStore
from tests.integration import processes

_COUNT = 12
_SHARD = 5
#: Three images of the previous run: the server has changed the first image, the second image's file is removed, and the
#: third image's file is damaged.
_CHANGED, _REMOVED, _DAMAGED = 3, 4, 7


@dataclass(frozen=True)
class Site:
    """A file server, its images, their URLs, and the server's access log."""

    files: Path
    folder: Path
    urls: list[str]

    def answers(self) -> list[tuple[int, int, int]]:
        """Return the image number, status and body size in bytes of each response so far."""
        lines = [line.split() for line in (self.folder / "answers.log").read_text().splitlines()]
        return [(int(path[1:-4]), int(status), int(size)) for path, status, size in lines]

    def save_image(self, number: int, colour: tuple[int, int, int]) -> None:
        """Save an image on the server. Saving the image again makes its file an hour newer."""
        path = self.files / f"{number}.png"
        again = path.exists()
        Image.new("RGB", (60 + number, 40), colour).save(path)
        os.utime(path, (1_700_000_000 + 3600 * again,) * 2)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Serve a dozen images by a file server that sends an ETag and a Last-Modified with each image."""
    files, folder = tmp_path / "files", tmp_path / "server"
    files.mkdir()
    folder.mkdir()
    with processes.file_server(folder, files) as port:
        site = Site(files, folder, [f"http://127.0.0.1:{port}/{number}.png" for number in range(_COUNT)])
        for number in range(_COUNT):
            site.save_image(number, (number, 90, 90))
        yield site


def run(urls: list[str], out: Path, *options: str | Path, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a list into a folder, and return the command's JSON report."""
    arguments = ("run", "-", "--out", out, "--shard-size", str(_SHARD), "--json", *options)
    return processes.producer(*arguments, stdin="\n".join(urls).encode(), env=env).json()


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return the files of a folder with their contents and modification times."""
    names = processes.files_below(folder)
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names}


#: The columns whose values are the same for a reused image as for a newly downloaded image.
_IMAGE_COLUMNS = ("url", "width", "height", "original_width", "original_height", "format", "bytes", "sha256", "etag")


def test_refresh(fleet: str, site: Site, out: Path) -> None:
    """Each image costs one 304 response, except changed images and images with a missing or damaged file."""
    old = out.with_name(f"{out.name}-old")
    run(site.urls, old, "--broker", fleet)
    site.save_image(_CHANGED, (200, 0, 0))
    before = processes.rows(old)
    (old / before[_REMOVED]["path"]).unlink()
    damaged = old / before[_DAMAGED]["path"]
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    files_before, requested = snapshot(old), len(site.answers())
    # The new list has another order, and has URLs that the previous run did not have.
    urls = [*reversed(site.urls), site.urls[0], f"{site.urls[0]}?new"]
    facts = run(urls, out, "--refresh-from", old, "--broker", fleet)
    assert (facts["success"], facts["unchanged"]) == (_COUNT + 2, _COUNT - 3 + 1)
    answers = sorted(site.answers()[requested:])
    sizes = {number: (site.files / f"{number}.png").stat().st_size for number in range(_COUNT)}
    unchanged = [(number, 304, 0) for number in (0, *range(_COUNT)) if number not in (_CHANGED, _REMOVED)]
    whole = [(number, 200, sizes[number]) for number in (0, _CHANGED, _REMOVED, _DAMAGED)]
    assert answers == sorted(unchanged + whole)
    rows = processes.rows(out)
    assert [row["url"] for row in rows] == urls
    known = {row["url"]: row for row in before}
    for row in rows:
        number = int(row["url"].rpartition("/")[2].partition(".")[0])
        assert (out / row["path"]).read_bytes() == (site.files / f"{number}.png").read_bytes()
        fresh = number in (_CHANGED, _REMOVED, _DAMAGED) or row["url"].endswith("?new")
        assert (row["http_status"], row["attempts"]) == (200 if fresh else 304, 2 if number == _DAMAGED else 1)
        if not fresh:
            previous = known[row["url"]]
            assert {name: row[name] for name in _IMAGE_COLUMNS} == {name: previous[name] for name in _IMAGE_COLUMNS}
            assert (out / row["path"]).samefile(old / previous["path"])
    assert processes.image_files(out) == {row["path"] for row in rows}
    assert set(rows[0]) == set(before[0])
    assert not (out / ".tmp").exists()
    assert snapshot(old) == files_before


@pytest.mark.slow
def test_refresh_can_be_resumed(fleet: str, site: Site, out: Path, tmp_path: Path) -> None:
    """If a refresh is killed during planning, the resumed run still refreshes both planned shards and new shards."""
    old = out.with_name(f"{out.name}-old")
    run(site.urls, old, "--broker", fleet)
    source = tmp_path / "list.txt"
    source.write_text("\n".join(site.urls))
    arguments = ("--refresh-from", old, "--broker", fleet, "--shard-size", str(_SHARD))
    assert processes.producer("run", source, "--out", out, *arguments).code == 0
    # Leave the folder as after a kill during the planning of the last shard, before any shard was collected.
    store = LocalStore(out)
    RunFile.load(store).save(store, plan=PlanState.OPEN, planned_rows=0, planned_shards=0)
    (out / ".plan" / "00002.parquet").unlink()
    (out / ".tmp" / "previous_run").mkdir(parents=True)
    for shard in ("00000", "00001", "00002"):
        (out / f"{shard}.parquet").unlink()
        processes.remove(out / shard)
    requested = len(site.answers())
    facts = processes.producer("resume", out, "--broker", fleet, "--json").json()
    assert (facts["success"], facts["unchanged"]) == (_COUNT, _COUNT)
    assert [status for _, status, _ in site.answers()[requested:]] == [304] * _COUNT
    assert not (out / ".tmp").exists()


@pytest.mark.slow
def test_refresh_can_be_retried(fleet: str, site: Site, out: Path) -> None:
    """The failed images of a refresh are retried, again with conditional requests."""
    old = out.with_name(f"{out.name}-old")
    run(site.urls, old, "--broker", fleet)
    hidden = site.files / "0.gone"
    (site.files / "0.png").rename(hidden)
    facts = run(site.urls, out, "--refresh-from", old, "--broker", fleet)
    assert (facts["unchanged"], facts["reasons"]) == (_COUNT - 1, {"http_4xx": 1})
    hidden.rename(site.files / "0.png")
    facts = processes.producer("retry", out, "--all", "--broker", fleet, "--json").json()
    assert (facts["success"], facts["unchanged"]) == (_COUNT, _COUNT)


@pytest.mark.slow
def test_refresh_of_resized_images_by_a_local_fleet(site: Site, tmp_path: Path) -> None:
    """A local fleet takes over a previous run's resized images, and writes nothing into the previous run's folder."""
    old, new = tmp_path / "old", tmp_path / "new"
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    resize = ("--resize", "keep_ratio", "--image-size", "32", "--workers", "1")
    run(site.urls, old, *resize, env=env)
    (old / ".tmp").mkdir()
    (old / ".tmp" / "of-another-run").touch()
    files_before = snapshot(old)
    facts = run(site.urls, new, "--refresh-from", old, *resize, env=env)
    assert (facts["success"], facts["unchanged"]) == (_COUNT, _COUNT)
    assert snapshot(old) == files_before
    for row, previous in zip(processes.rows(new), processes.rows(old), strict=True):
        assert {name: row[name] for name in _IMAGE_COLUMNS} == {name: previous[name] for name in _IMAGE_COLUMNS}
        assert row["original_width"] == 60 + int(row["key"][-1]) + _SHARD * int(row["key"][:5])
        assert (new / row["path"]).samefile(old / previous["path"])
    report = processes.producer("resume", new, env=env).out
    assert f"unchanged {_COUNT} of them, reused from {old}" in " ".join(report.split())


@pytest.mark.slow
def test_refresh_without_access_to_the_previous_run(fleet: str, site: Site, out: Path, tmp_path: Path) -> None:
    """If the workers may not read the previous run's folder, everything is downloaded."""
    old = tmp_path / "old"
    run(site.urls, old, env={"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"})
    facts = run(site.urls, out, "--refresh-from", old, "--broker", fleet)
    assert (facts["success"], facts["unchanged"]) == (_COUNT, 0)


@pytest.mark.parametrize("place", ["empty", "out"])
def test_refresh_from_a_folder_without_a_run_is_refused(tmp_path: Path, place: str) -> None:
    """A folder without a previous run is refused with exit status 2 before anything starts."""
    (tmp_path / "list.txt").write_text("http://127.0.0.1/1.jpg\n")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    ended = processes.producer("run", tmp_path / "list.txt", "--out", out, "--refresh-from", tmp_path / place)
    assert ended.code == 2
    assert str(tmp_path / place) in processes.error_parts(ended)[0]
    assert not out.exists()


@pytest.mark.slow
def test_refresh_names_a_damaged_manifest(fleet: str, demo_url: str, out: Path) -> None:
    """If a manifest is truncated, an error names the manifest before any request.

    The command that the error recommends then completes the run.
    """
    old = out.with_name(f"{out.name}-old")
    urls = [f"{demo_url}/images/{number}.png" for number in range(3)]
    run(urls, old, "--broker", fleet)
    body = (old / "00000.parquet").read_bytes()
    (old / "00000.parquet").write_bytes(body[:-20])
    requested = processes.request_count(demo_url, "/images")
    source = out.with_name(f"{out.name}.txt")
    source.write_text("\n".join(urls))
    ended = processes.producer("run", source, "--out", out, "--refresh-from", old, "--broker", fleet)
    assert ended.code == 1
    what, _, todo = processes.error_parts(ended)
    assert str(old / "00000.parquet") in what
    assert f"producer resume {out}" in todo
    assert processes.request_count(demo_url, "/images") == requested
    assert json.loads((out / "run.json").read_text())["state"] == "failed"
    (old / "00000.parquet").unlink()
    facts = processes.producer("resume", out, "--broker", fleet, "--json").json()
    assert (facts["success"], facts["unchanged"]) == (3, 0)
