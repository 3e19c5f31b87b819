"""Each way of a comparison is measured against the first way. All ways use the same images and functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.comparison import baseline
from producer.comparison.comparison import FOLDERS, Comparison, stores
from producer.comparison.downloads import Download
from producer.comparison.way import FLEET, ONE_BY_ONE, THREADS, Way
from producer.demo import DemoServer
from producer.output.run_file import RunConfig, RunFile
from producer.output.summary import COLUMNS, Summary, summarise
from tasks.download.downloader import Downloader
from tasks.errors import UsageError
from tasks.model import FetchOptions, ImageRequest, Outcome, RunOptions
from tasks.storage import manifest, plan
from tasks.storage.local_store import LocalStore

_DONE = Summary({"success": 10}, {}, 1000, 1)
_WAYS = (
    Way(ONE_BY_ONE, 1, 6.0, _DONE, Path("/out/one-by-one")),
    Way(THREADS, 4, 1.5, _DONE, Path("/out/threads")),
    Way(
        *(FLEET, 32, 0.75, Summary({"success": 9, "failed_to_download": 1}, {"dns": 1}, 900, 1), Path("/out/fleet")),
        downloads=(Download(0.05, 0.3, "worker-1", True), Download(0.2, 0.65, "worker-2", False)),
    ),
)
_SHARD_SIZE = 3


def test_speedup_is_measured_against_one_by_one() -> None:
    """A way that takes a quarter of the time is four times as fast."""
    comparison = Comparison("list.txt", _WAYS, 1.0)
    assert [comparison.speedup(way) for way in _WAYS] == [1.0, 4.0, 8.0]
    assert comparison.speedup(Way("none", 1, 0.0, _DONE, Path())) == 0.0


def test_speed_counts_failed_images() -> None:
    """The time of failed images counts too."""
    assert [round(way.images_per_second, 2) for way in _WAYS] == [1.67, 6.67, 13.33]
    assert Way("none", 1, 0.0, _DONE, Path()).images_per_second == 0.0


def test_json() -> None:
    """The numbers are plain JSON types, rounded, with one row for each way."""
    numbers = json.loads(json.dumps(Comparison("list.txt", _WAYS, 1.23456).to_json()))
    assert (numbers["source"], numbers["startup_seconds"]) == ("list.txt", 1.235)
    assert [way["name"] for way in numbers["ways"]] == ["one by one", "threads", "fleet"]
    assert numbers["ways"][0]["before_seconds"] is None
    assert numbers["ways"][2] == {
        "name": "fleet",
        "slots": 32,
        "wall_seconds": 0.75,
        "before_seconds": 0.05,
        "after_seconds": 0.1,
        "images_per_second": 13.33,
        "speedup": 8.0,
        "total": 10,
        "success": 9,
        "failed": 1,
        "reasons": {"dns": 1},
        "bytes": 900,
        "out": "/out/fleet",
    }


def test_each_way_has_a_folder(tmp_path: Path) -> None:
    """Each way writes into a folder of its own."""
    assert {name: store.root for name, store in stores(tmp_path).items()} == {
        name: tmp_path / folder for name, folder in FOLDERS.items()
    }


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_folder_with_a_run_is_refused(tmp_path: Path, folder: str) -> None:
    """If the folder of any way holds a run, nothing starts."""
    RunFile("id", "list.txt", "/out", RunConfig()).create(LocalStore(tmp_path / folder))
    with pytest.raises(UsageError, match=f"{folder} already holds a run"):
        stores(tmp_path)


def by_three_threads(
    requests: list[ImageRequest],
    run: RunOptions,
    store: LocalStore,
    downloader: Downloader,
    listener: Callable[[Outcome], None],
) -> float:
    """Run the threads way with three threads."""
    return baseline.download_with_threads(requests, run, store, downloader, listener, 3)


@pytest.mark.parametrize("way", [baseline.download_one_by_one, by_three_threads])
def test_baseline_writes_the_same_files_as_a_fleet(
    demo: DemoServer, downloader: Downloader, store: LocalStore, way: Callable[..., float]
) -> None:
    """A baseline fetches every image, reports each one, and writes images, plan, manifests and stats."""
    urls = [f"{demo.url}/images/{number}.png?width=40" for number in range(4)]
    urls.insert(2, f"{demo.url}/fault/not-found")
    requests = [ImageRequest(index, url) for index, url in enumerate(urls)]
    reported: list[Outcome] = []
    run = RunOptions(str(store.root), _SHARD_SIZE, FetchOptions(retries=0))
    seconds = way(requests, run, store, downloader, reported.append)
    assert sorted(outcome.key for outcome in reported) == ["000000", "000001", "000002", "000010", "000011"]
    summary = summarise(manifest.decode(store.read(manifest.name(shard)), COLUMNS) for shard in (0, 1))
    assert (summary.total, summary.success, summary.reasons, summary.shards) == (5, 4, {"http_4xx": 1}, 2)
    assert sorted(store.list_files("00001")) == ["00001/000010.png", "00001/000011.png"]
    assert sorted(store.list_files(plan.FOLDER)) == [plan.name(0), plan.name(1)]
    assert store.exists("00001_stats.json")
    assert 0 < seconds < 5


def test_baseline_reports_an_unwritable_folder(downloader: Downloader, store: LocalStore) -> None:
    """If the plan can't be written, a baseline fails as a run does. The error gives the folder, reason and remedy."""
    store.path(".plan").write_bytes(b"")
    run = RunOptions(str(store.root), 10)
    with pytest.raises(UsageError, match=r"can't be written: could not save \.plan/00000\.parquet") as caught:
        baseline.download_one_by_one([ImageRequest(0, "no URL")], run, store, downloader, lambda _: None)
    assert "Choose a folder" in caught.value.hint
