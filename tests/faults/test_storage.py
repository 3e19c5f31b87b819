"""Storage faults: a full disk, a read-only folder, and damaged files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.celery import IMAGE_QUEUE
from tests.conftest import lacking
from tests.faults.harness import Arena
from tests.integration import processes


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[None]:
    """Mount a file system over a folder during the block."""
    if os.geteuid() != 0:
        lacking("only root can mount the file systems of these tests")
    # A process with an open file in the folder can block a mount for a moment.
    processes.eventually(lambda: not _mount(*options, str(place)), f"a mount at {place}")
    try:
        yield
    finally:
        # The unmount is lazy, because a killed process may still have an open file in the folder.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode


def wait_for_failure(arena: Arena, run: processes.Background) -> tuple[str, str, str]:
    """Wait until a run fails, check that no partial file is left, and return the parts of the error message."""
    ended = run.wait(120)
    arena.count_fault()
    assert ended.code == 1, ended.err
    originals = set(arena.site.originals)
    for shard in arena.out.glob("[0-9]*[0-9]/"):
        for file in shard.iterdir():
            assert file.read_bytes() in originals, file
    return processes.error_parts(ended)


@pytest.mark.timeout(300)
def test_full_disk_stops_the_run_until_resumed(arena: Arena) -> None:
    """The run reports the full disk and stops.

    With more space, a resume completes the run and fetches no saved image.
    """
    images = 10_000
    arena.out.mkdir()
    with mounted(arena.out, "-t", "tmpfs", "-o", "size=20m", "tmpfs"):
        arena.fleet.add(2)
        with arena.run(arena.list(images)) as run:
            _, why, todo = wait_for_failure(arena, run)
        assert "full" in why or "No space left" in why
        assert f"producer resume {arena.out}" in todo
        before = arena.site.hits(arena.name)
        saved = arena.saved()
        assert 0 < saved < images
        assert _mount("-o", "remount,size=200m", str(arena.out)) == 0
        ended = arena.resume()
        assert ended.code == 0, ended.err
        arena.verify("a full disk of 20 MB")
    assert sum(before.values()) >= saved


@pytest.mark.timeout(300)
def test_read_only_folder_stops_the_run_until_resumed(arena: Arena) -> None:
    """The run reports the read-only folder and stops. When the folder is writable again, a resume completes the run."""
    images = 3_000
    arena.fleet.add(2)
    with arena.run(arena.list(images), "--shard-size", "250") as run:
        arena.wait_until_saved(images // 2, run)
        # The producer's lock is open for writing, so the folder can't be remounted directly. A bind mount of the folder
        # over itself can be read-only. All files that are opened from now on are opened through this mount.
        with mounted(arena.out, "--bind", str(arena.out)):
            processes.eventually(lambda: not _mount("-o", "remount,ro,bind", str(arena.out)), "a read-only folder")
            _, why, todo = wait_for_failure(arena, run)
    assert "Read-only" in why or str(arena.out) in why
    assert str(arena.out) in todo
    assert arena.resume().code == 0
    arena.verify("OUT becomes read-only midway")


@pytest.mark.timeout(200)
def test_reports_a_truncated_manifest(arena: Arena) -> None:
    """A truncated manifest is reported and stays unchanged.

    After the manifest is removed, a resume completes the run without a fetch.
    """
    arena.fleet.add(1)
    with arena.run(arena.list(300), "--shard-size", "100") as run:
        assert run.wait(60).json()["success"] == 300
    manifest = arena.out / "00001.parquet"
    truncated = manifest.read_bytes()[:-100]
    manifest.write_bytes(truncated)
    arena.count_fault()
    ended = arena.resume()
    assert ended.code == 1
    assert str(manifest) in processes.error_parts(ended)[0]
    assert manifest.read_bytes() == truncated
    manifest.unlink()
    assert arena.resume().code == 0
    arena.verify("a truncated manifest")
    assert max(arena.site.hits(arena.name).values()) == 1


@pytest.mark.timeout(900)
def test_reports_a_changed_run_json(arena: Arena, long: bool) -> None:
    """At every tested position, a changed byte of run.json is reported, and no file is modified."""
    with arena.run(arena.list(10)) as run:
        processes.eventually(lambda: arena.server.client.llen(IMAGE_QUEUE), "its messages")
        run.process.kill()
        run.wait()
    record = arena.out / "run.json"
    original = record.read_bytes()
    offsets = [offset for offset, byte in enumerate(original) if byte not in b" \n"]
    before = processes.files_below(arena.out)
    for offset in offsets[:: max(1, len(offsets) // (200 if long else 6))]:
        arena.count_fault()
        changed = bytearray(original)
        changed[offset] ^= 1
        record.write_bytes(bytes(changed))
        ended = arena.resume()
        assert ended.code == 1, (offset, chr(original[offset]), ended)
        assert str(record) in processes.error_parts(ended)[0]
        assert record.read_bytes() == bytes(changed)
        assert processes.files_below(arena.out) == before
    record.write_bytes(original)
    arena.fleet.add(1)
    assert arena.resume().code == 0
    arena.verify("a flipped byte in run.json")
