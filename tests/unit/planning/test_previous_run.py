"""A run that refreshes a previous run finds reusable images in the previous run's folder.

Refreshing changes nothing in the previous run's folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from producer.output.run_file import PlanState, RunConfig, RunFile
from producer.planning import url_index
from producer.planning.previous_run import PreviousRun, join_previous_images
from producer.sources.options import SourceOptions
from tasks.errors import CommandError, UsageError
from tasks.image_options import ResizeMode, ResizeOptions
from tasks.model import (
    FetchOptions,
    ImageRequest,
    Outcome,
    OutputFormat,
    OutputOptions,
    PreviousImage,
    Reason,
    Status,
    Verify,
)
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.unit.conftest import success

_SIZE = 3
_FETCH = FetchOptions()
_FACTS: dict[str, Any] = {"width": 4, "height": 3, "format": "png", "bytes": 3, "sha256": "f00"}


def saved_row(place: int, url: str, **values: object) -> tuple[str, Outcome]:
    """Return a row of a previous run: a URL and the Outcome of its image. An ETag is added unless it is given."""
    shard, offset = divmod(place, _SIZE)
    return url, success(offset, shard, _SIZE, **{**_FACTS, "etag": f'"{place}"', **values})


def failed_row(place: int, url: str) -> tuple[str, Outcome]:
    """Return a row of a failed image."""
    return url, Outcome(f"{place:06d}", Status.FAILED_TO_DOWNLOAD, Reason.TIMEOUT, etag='"x"')


def write_run(
    store: LocalStore,
    rows: list[tuple[str, Outcome]],
    fetch: FetchOptions = _FETCH,
    columns: dict[str, str] | None = None,
) -> LocalStore:
    """Write a previous run with these rows."""
    shards = -(-len(rows) // _SIZE)
    store.root.mkdir()
    record = RunFile("old", "list.txt", str(store.root), RunConfig(fetch, _SIZE), plan=PlanState.COMPLETE)
    replace(record, planned_rows=len(rows), planned_shards=shards).create(store)
    for shard in range(shards):
        part = rows[shard * _SIZE : (shard + 1) * _SIZE]
        requests = [ImageRequest(shard * _SIZE + place, url, columns or {}) for place, (url, _) in enumerate(part)]
        planned = plan.encode(requests, ShardRef("old", shard))
        store.create_durably(plan.name(shard), planned)
        table = plan.decode(planned)
        outcomes = [outcome for _, outcome in part]
        store.create_durably(manifest.name(shard), manifest.encode(table, outcomes, ShardRef("old", shard)))
    return store


@pytest.fixture
def old(tmp_path: Path) -> LocalStore:
    """Return the folder for a previous run."""
    return LocalStore(tmp_path / "old")


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    """Return the folder of the run that refreshes the previous run."""
    (tmp_path / "new").mkdir()
    return LocalStore(tmp_path / "new")


def found(old: LocalStore, out: LocalStore, *urls: str, shard_size: int = 2) -> list[str | None]:
    """Return the paths of these URLs' images in the previous run."""
    requests = (ImageRequest(index, url) for index, url in enumerate(urls))
    joins = list(join_previous_images(requests, RunConfig(_FETCH, shard_size, previous_run=str(old.root)), out))
    assert [(request.index, request.url) for request in joins] == list(enumerate(urls))
    assert not out.path(".tmp/former").exists()
    return [None if request.previous is None else request.previous.path for request in joins]


def timestamps(store: LocalStore) -> dict[Path, tuple[int, int]]:
    """Return all paths in a folder with their times of change."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in store.root.rglob("*")}


def test_url_finds_its_image(old: LocalStore, out: LocalStore) -> None:
    """Each URL finds its image in any shard of the previous run, whatever the order of the new list."""
    write_run(old, [saved_row(place, f"u{place}") for place in range(7)])
    before = timestamps(old)
    assert found(old, out, "u6", "new", "u0", "u3", "u0") == [
        "00002/000020.png",
        None,
        "00000/000000.png",
        "00001/000010.png",
        "00000/000000.png",
    ]
    assert timestamps(old) == before


def test_all_facts_are_taken_over(old: LocalStore, out: LocalStore) -> None:
    """An unchanged image's row takes over all facts of the previous row."""
    values: dict[str, Any] = {
        "original_width": 8,
        "original_height": 6,
        "exif": "{}",
        "final_url": "http://b.example/",
    }
    write_run(old, [saved_row(0, "u", last_modified="Thu, 01 Jan 2026 00:00:00 GMT", **values)])
    (request,) = join_previous_images([ImageRequest(0, "u")], RunConfig(_FETCH, previous_run=str(old.root)), out)
    assert request.previous == PreviousImage(
        path="00000/000000.png", etag='"0"', last_modified="Thu, 01 Jan 2026 00:00:00 GMT", **_FACTS, **values
    )


def test_first_reusable_image_of_a_url_counts(old: LocalStore, out: LocalStore) -> None:
    """If a URL occurs more than once in the previous run, its first reusable image counts."""
    rows = [failed_row(0, "u"), saved_row(1, "u", etag=None), saved_row(2, "u"), saved_row(3, "u")]
    write_run(old, rows)
    assert found(old, out, "u") == ["00000/000002.png"]


def test_unusable_images_are_downloaded(old: LocalStore, out: LocalStore) -> None:
    """Failures, images without validator, path or digest, and images from unverified servers are downloaded again."""
    rows = [
        failed_row(0, "failed"),
        saved_row(1, "no validator", etag=None),
        saved_row(2, "no ETag but a date", etag=None, last_modified="Thu, 01 Jan 2026 00:00:00 GMT"),
        saved_row(3, "validator that can't be sent", etag="*"),
        saved_row(4, "no path", path=None),
        saved_row(5, "no digest", sha256=None),
        saved_row(6, "unverified server", tls_unverified=True),
    ]
    write_run(old, rows)
    assert found(old, out, *(url for url, _ in rows)) == [None, None, "00000/000002.png", None, None, None, None]


def test_hash_collisions_are_harmless(old: LocalStore, out: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs with the same hash still get their own images. A URL that the previous run does not know gets no image."""
    monkeypatch.setattr(url_index, "_hash", lambda url: b"12345678")
    write_run(old, [saved_row(0, "a"), saved_row(1, "b"), saved_row(2, "c")])
    assert found(old, out, "c", "a", "d", "b") == ["00000/000002.png", "00000/000000.png", None, "00000/000001.png"]


def test_list_columns_named_like_outcome_fields(old: LocalStore, out: LocalStore) -> None:
    """The list's own columns are not confused with the columns of an Outcome."""
    columns = {"etag": '"its own"', "path": "its own", "status": "failed", "imagefleet.previous": "its own"}
    write_run(old, [saved_row(0, "u")], columns=columns)
    requests = [ImageRequest(0, "u", columns)]
    (request,) = join_previous_images(requests, RunConfig(_FETCH, previous_run=str(old.root)), out)
    assert request.previous is not None
    assert (request.previous.path, request.previous.etag, request.columns) == ("00000/000000.png", '"0"', columns)


def test_incomplete_previous_run(old: LocalStore, out: LocalStore) -> None:
    """The finished shards of an incomplete run are used."""
    write_run(old, [saved_row(place, f"u{place}") for place in range(9)])
    record = RunFile.load(old)
    record.save(old, plan=PlanState.OPEN, planned_rows=0, planned_shards=0)
    old.remove(manifest.name(1))
    assert found(old, out, "u0", "u4", "u8") == ["00000/000000.png", None, "00002/000022.png"]


def test_requests_are_read_a_shard_at_a_time(old: LocalStore, out: LocalStore) -> None:
    """If the list is slow, the caller waits only for the requests of one shard at a time."""
    write_run(old, [saved_row(0, "u0")])
    read: list[int] = []

    def slowly() -> Iterator[ImageRequest]:
        for index in range(6):
            read.append(index)
            yield ImageRequest(index, f"u{index}")

    joins = iter(join_previous_images(slowly(), RunConfig(_FETCH, 2, previous_run=str(old.root)), out))
    assert [next(joins).index for _ in range(2)] == [0, 1]
    assert read == [0, 1]
    joins.close()  # type: ignore[attr-defined]
    assert not out.path(".tmp/former").exists()


@pytest.mark.parametrize("damage", ["truncated", "another shard's"])
def test_damaged_manifest_is_an_error(old: LocalStore, out: LocalStore, damage: str) -> None:
    """A damaged manifest is reported before any request is returned, so no image of its run is reused."""
    write_run(old, [saved_row(place, f"u{place}") for place in range(6)])
    body = old.read(manifest.name(1))
    old.replace(manifest.name(1), body[:-50] if damage == "truncated" else old.read(manifest.name(0)))
    with pytest.raises(CommandError, match=r"old/00001\.parquet is unusable") as caught:
        found(old, out, "u0")
    assert f"producer resume {out.root}" in caught.value.hint


def test_missing_previous_run(old: LocalStore, out: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    """If the previous run was removed, a resumed run downloads all missing images. It logs the removal."""
    caplog.set_level(logging.WARNING)
    assert found(old, out, "u0", "u1") == [None, None]
    assert f"no further images are reused from {old.root}" in caplog.text


def test_ordinary_run(out: LocalStore) -> None:
    """Without a previous run, requests are unchanged."""
    requests = [ImageRequest(0, "a"), ImageRequest(1, "b")]
    assert list(join_previous_images(requests, RunConfig(), out)) == requests


def test_folder_without_a_run_is_refused(tmp_path: Path, old: LocalStore, out: LocalStore) -> None:
    """A missing folder, or a folder without a run, is refused."""
    with pytest.raises(UsageError, match=r"There is no folder .*/old \(--refresh-from\)"):
        PreviousRun(old.root, out, _FETCH)
    old.root.mkdir()
    with pytest.raises(UsageError, match=r"holds no run \(--refresh-from\)"):
        PreviousRun(old.root, out, _FETCH)


def test_run_in_its_own_folder(tmp_path: Path, old: LocalStore) -> None:
    """A run can't be refreshed in its own folder, however the path is written."""
    write_run(old, [saved_row(0, "u")])
    (tmp_path / "link").symlink_to(old.root)
    with pytest.raises(UsageError, match="can't be refreshed into the same folder"):
        PreviousRun(tmp_path / "link", old, _FETCH)
    with pytest.raises(UsageError, match="can't be refreshed inside of itself"):
        PreviousRun(old.root, LocalStore(old.root / "new"), _FETCH)


def test_changed_run_file_is_refused(old: LocalStore, out: LocalStore) -> None:
    """A modified run.json is refused."""
    write_run(old, [saved_row(0, "u")])
    old.replace("run.json", old.read("run.json").replace(b"list.txt", b"tsil.txt"))
    with pytest.raises(CommandError, match=r"run\.json is damaged"):
        PreviousRun(old.root, out, _FETCH)


_SMALL = ResizeOptions(ResizeMode.KEEP_RATIO, 64)
_INCOMPATIBLE: dict[str, tuple[FetchOptions, FetchOptions, str]] = {
    "only the previous run resized": (FetchOptions(resize=_SMALL), _FETCH, "--resize"),
    "only this run resizes": (_FETCH, FetchOptions(resize=_SMALL), "--resize"),
    "another size": (FetchOptions(resize=_SMALL), FetchOptions(resize=replace(_SMALL, image_size=65)), "--image-size"),
    "only this run decodes": (_FETCH, FetchOptions(verify=Verify.DECODE), "--verify decode"),
    "larger images": (_FETCH, FetchOptions(max_bytes=5), "--max-bytes"),
    "opt-outs ignored": (FetchOptions(ignore_opt_out=True), _FETCH, "--ignore-opt-out"),
}


@pytest.mark.parametrize(("before", "now", "named"), _INCOMPATIBLE.values(), ids=_INCOMPATIBLE)
def test_incompatible_options_are_refused(
    old: LocalStore, out: LocalStore, before: FetchOptions, now: FetchOptions, named: str
) -> None:
    """If this run's options would save other images than the previous run's options, the error names the option."""
    write_run(old, [saved_row(0, "u")], before)
    with pytest.raises(UsageError, match="can't be reused") as caught:
        PreviousRun(old.root, out, now)
    assert named in caught.value.why


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"output": OutputOptions(OutputFormat.WEBDATASET)}, "--output-format webdataset"),
        ({"output": OutputOptions(path_template="full/{key}")}, "--path-template"),
        ({"source": SourceOptions(path_col="name")}, "--path-col"),
    ],
)
def test_images_without_default_names_are_refused(
    old: LocalStore, out: LocalStore, changes: dict[str, Any], named: str
) -> None:
    """Images in a tar, or with names of their own, can't be reused. The error names the option."""
    write_run(old, [saved_row(0, "u")])
    record = RunFile.load(old)
    record.save(old, options=replace(record.options, **changes))
    with pytest.raises(UsageError, match="can't be reused") as caught:
        PreviousRun(old.root, out, _FETCH)
    assert named in caught.value.why


_COMPATIBLE = {
    "only the previous run decoded": (FetchOptions(verify=Verify.DECODE), _FETCH),
    "same resizing": (FetchOptions(resize=_SMALL), FetchOptions(resize=_SMALL, verify=Verify.DECODE)),
    "smaller images": (FetchOptions(max_bytes=5), _FETCH),
    "opt-outs ignored now": (_FETCH, FetchOptions(ignore_opt_out=True)),
    "options without effect on images": (FetchOptions(timeout=1.0, retries=0), _FETCH),
}


@pytest.mark.parametrize(("before", "now"), _COMPATIBLE.values(), ids=_COMPATIBLE)
def test_compatible_options_are_accepted(
    old: LocalStore, out: LocalStore, before: FetchOptions, now: FetchOptions
) -> None:
    """A previous run with the same or stricter options is accepted."""
    write_run(old, [saved_row(0, "u")], before)
    assert PreviousRun(old.root, out, now).folder == old.location
