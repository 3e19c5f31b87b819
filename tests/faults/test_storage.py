"""A disk that fills up, a folder that can't be written any more, and files that were changed by hand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.celery import IMAGES
from tests.conftest import lacking
from tests.faults.harness import Arena
from tests.integration import parts


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """Mount something at a folder, on top of what is there, for as long as the block takes."""
    if os.geteuid() != 0:
        lacking("only root may mount what these tests need")
    # Who has a file open there for a moment is in the way of some changes.
    parts.eventually(lambda: not _mount(*options, str(place)), f"a mount at {place}")
    try:
        yield
    finally:
        # Lazily: who was killed a moment ago may still have a file open there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode


def stopped(arena: Arena, run: parts.Background) -> tuple[str, str, str]:
    """Wait for the end of a run that can't go on, and return what it tells; no file of it is in part."""
    ended = run.wait(120)
    arena.strike()
    assert ended.code == 1, ended.err
    originals = set(arena.site.originals)
    for shard in arena.out.glob("[0-9]*[0-9]/"):
        for file in shard.iterdir():
            assert file.read_bytes() in originals, file
    return parts.error_parts(ended)


@pytest.mark.timeout(300)
def test_disk_is_full(arena: Arena) -> None:
    """The run stops and says so; after space is made, it is completed, and what was saved is not fetched again."""
    images = 10_000
    arena.out.mkdir()
    with mounted(arena.out, "-t", "tmpfs", "-o", "size=20m", "tmpfs"):
        arena.fleet.add(2)
        with arena.run(arena.list(images)) as run:
            _, why, todo = stopped(arena, run)
        assert "full" in why or "No space left" in why
        assert f"producer resume {arena.out}" in todo
        before = arena.site.hits(arena.name)
        saved = arena.saved()
        assert 0 < saved < images
        assert _mount("-o", "remount,size=200m", str(arena.out)) == 0
        ended = arena.resume()
        assert ended.code == 0, ended.err
        arena.proven("a disk of 20 MB that is full")
    assert sum(before.values()) >= saved


@pytest.mark.timeout(300)
def test_folder_becomes_read_only(arena: Arena) -> None:
    """The run stops and says so; when the folder can be written again, it is completed."""
    images = 3_000
    arena.fleet.add(2)
    with arena.run(arena.list(images), "--shard-size", "250") as run:
        arena.until_saved(images // 2, run)
        # The producer's lock is open for writing, so the folder is covered by itself: whatever is opened from now on is
        # opened through the cover.
        with mounted(arena.out, "--bind", str(arena.out)):
            parts.eventually(lambda: not _mount("-o", "remount,ro,bind", str(arena.out)), "a folder that is read-only")
            _, why, todo = stopped(arena, run)
    assert "Read-only" in why or str(arena.out) in why
    assert str(arena.out) in todo
    assert arena.resume().code == 0
    arena.proven("OUT read-only half way")


@pytest.mark.timeout(200)
def test_manifest_is_cut(arena: Arena) -> None:
    """A manifest that is cut is named, and stays as it is; once it is removed, the run is completed without a fetch."""
    arena.fleet.add(1)
    with arena.run(arena.list(300), "--shard-size", "100") as run:
        assert run.wait(60).json()["success"] == 300
    manifest = arena.out / "00001.parquet"
    cut = manifest.read_bytes()[:-100]
    manifest.write_bytes(cut)
    arena.strike()
    ended = arena.resume()
    assert ended.code == 1
    assert str(manifest) in parts.error_parts(ended)[0]
    assert manifest.read_bytes() == cut
    manifest.unlink()
    assert arena.resume().code == 0
    arena.proven("a manifest cut by hand")
    assert max(arena.site.hits(arena.name).values()) == 1


@pytest.mark.timeout(900)
def test_record_is_changed(arena: Arena, long: bool) -> None:
    """A byte of run.json is flipped, in many places: it is named each time, and nothing is changed."""
    with arena.run(arena.list(10)) as run:
        parts.eventually(lambda: arena.server.client.llen(IMAGES), "its messages")
        run.process.kill()
        run.wait()
    record = arena.out / "run.json"
    whole = record.read_bytes()
    inside = [place for place, byte in enumerate(whole) if byte not in b" \n"]
    places = inside[:: max(1, len(inside) // (200 if long else 6))]
    before = parts.files_below(arena.out)
    for place in places:
        arena.strike()
        changed = bytearray(whole)
        changed[place] ^= 1
        record.write_bytes(bytes(changed))
        ended = arena.resume()
        assert ended.code == 1, (place, chr(whole[place]), ended)
        assert str(record) in parts.error_parts(ended)[0]
        assert record.read_bytes() == bytes(changed)
        assert parts.files_below(arena.out) == before
    record.write_bytes(whole)
    arena.fleet.add(1)
    assert arena.resume().code == 0
    arena.proven("a byte of run.json flipped")
