"""With ``--dedupe url``, a row with the URL of an earlier row is refused, however the URL is written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from producer.output.run_file import RunConfig, RunFile
from producer.planning import seen_urls
from producer.planning.duplicates import refuse_duplicates
from producer.planning.planner import Planner, PlanProgress
from producer.planning.repair import repair_plan
from producer.planning.run_requests import prepare_requests
from producer.planning.seen_urls import SeenUrls
from producer.runs.resume import remaining_requests
from producer.sources import url_list
from producer.sources.options import Dedupe, SourceOptions
from tasks.errors import StorageError, UsageError
from tasks.model import ImageRequest, Reason, Refusal
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef

_CONFIG = RunConfig(shard_size=3, source=SourceOptions(caption_col="text", dedupe=Dedupe.URL))


def requests(*listed: str) -> Iterator[ImageRequest]:
    """Return the requests for these URLs."""
    return (ImageRequest(index, url) for index, url in enumerate(listed))


def refused(listed: Iterable[ImageRequest], shard_size: int, folder: Path) -> list[ImageRequest]:
    """Return the requests after duplicates are refused, without a further check."""
    return list(refuse_duplicates(listed, shard_size, folder, lambda request: request))


def firsts(found: Iterable[ImageRequest]) -> list[str | None]:
    """Return a key or None for each request. If a request is refused as a duplicate, the refusal names the key."""
    keys: list[str | None] = []
    for request in found:
        if request.refused is None or request.refused.reason is not Reason.DUPLICATE:
            keys.append(None)
        else:
            keys.append(request.refused.message.removeprefix("the same URL as "))
    return keys


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the run's folder."""
    (tmp_path / "out").mkdir()
    return LocalStore(tmp_path / "out")


@pytest.mark.parametrize(
    "other",
    [
        "http://a.example/x y?q=1",
        "HTTP://A.Example/x%20y?q=1",
        "http://a.example:80/x%20y?q=1",
        "http://a.example/x%20y?q=1#top",
        "http:\\\\a.example\\x%20y?q=1",
        " http://a.example/x%20y?q=1\t",
        "http://a.example/b/../x%20y?q=1",
        "http://a.example/./x%20y?q=1",
        "http://@a.example/x%20y?q=1",
    ],
)
def test_same_urls(tmp_path: Path, other: str) -> None:
    """Two URLs are the same if they lead to the same HTTP request."""
    found = refused(requests("http://a.example/x%20y?q=1", other), 1000, tmp_path / "seen")
    assert firsts(found) == [None, "00000000"]
    assert found[1].url == other
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://b\u00fccher.example/\u00e9", "http://xn--bcher-kva.example/%C3%A9"),
        ("http://127.1/", "http://0x7f.0.0.1"),
    ],
)
def test_same_hosts(tmp_path: Path, one: str, other: str) -> None:
    """International host names and addresses are compared in the form that is requested."""
    assert firsts(refused(requests(one, other), 10, tmp_path / "seen")) == [None, "000000"]


@pytest.mark.parametrize(
    "other",
    [
        "https://a.example/x",
        "http://a.example:8080/x",
        "http://a.example/X",
        "http://a.example/x/",
        "http://a.example/x?",
        "http://a.example./x",
        "http://www.a.example/x",
        "http://a.example/%78",
        "http://user:password@a.example/x",
    ],
)
def test_different_urls(tmp_path: Path, other: str) -> None:
    """Two URLs are different if they may have different images."""
    assert firsts(refused(requests("http://a.example/x", other), 10, tmp_path / "seen")) == [None, None]


def test_names_the_first_row(tmp_path: Path) -> None:
    """Each duplicate names the first row with its URL, and the rows keep their order."""
    listed = ["http://a/", "http://b/", "http://a/", "http://c/", "http://b/", "http://a/"]
    found = refused(requests(*listed), 2, tmp_path / "seen")
    assert firsts(found) == [None, None, "000000", None, "000001", "000000"]
    assert [(request.index, request.url) for request in found] == list(enumerate(listed))


def test_other_rows_stay_unchanged(tmp_path: Path) -> None:
    """An invalid URL, or a row that is refused for another reason, is no duplicate.

    No row is a duplicate of an invalid or refused row.
    """
    invalid = ImageRequest(1, "http://a/", refused=Refusal(Reason.INVALID_ROW, "line 2 is damaged"))
    listed = [ImageRequest(0, "nonsense"), invalid, ImageRequest(2, "nonsense"), ImageRequest(3, "http://a/")]
    assert refused(listed, 10, tmp_path / "seen") == listed


def test_table_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is found even after the table has grown several times. The folder has only one file."""
    monkeypatch.setattr(seen_urls, "_FIRST_BITS", 2)
    monkeypatch.setattr(seen_urls, "_CHUNK_BYTES", 5 * 24)
    with SeenUrls(tmp_path / "seen") as seen:
        for row in range(3000):
            assert seen.first_row(f"http://a.example/{row}", row) == row
        assert [path.name for path in (tmp_path / "seen").iterdir()] == ["13"]
        assert [seen.first_row(f"http://a.example/{row}", 1 << 40) for row in range(3000)] == list(range(3000))


def test_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the table's file can't be written, the error says so."""
    monkeypatch.setattr("os.pwrite", lambda *_: 10)
    with pytest.raises(StorageError, match="could not remember the URLs of the list: No space left on device"):
        refused(requests("http://a/"), 10, tmp_path / "seen")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not remember the URLs of the list: "):
        refused(requests("http://a/"), 10, tmp_path / "file" / "seen")


def test_without_the_option(store: LocalStore) -> None:
    """Without the option, no row is refused, and nothing is written."""
    assert firsts(prepare_requests(requests("http://a/", "http://a/"), RunConfig(), store)) == [None, None]
    assert not list(store.root.iterdir())


def test_stopped_planning_removes_the_files(store: LocalStore) -> None:
    """If planning stops before the end of the list, the temporary files are removed too."""

    def endless() -> Iterator[ImageRequest]:
        yield from requests(*(f"http://a/{number}" for number in range(5)))
        assert list(store.root.glob("*/duplicates"))
        raise UsageError("The list ended", "", "")

    listed = prepare_requests(endless(), _CONFIG, store)
    planner = Planner(listed, store, 3, lambda rows, shards: None)
    planner._run()
    assert isinstance(planner.error, UsageError)
    assert not list(store.root.glob("*/duplicates"))


@pytest.fixture
def planned(store: LocalStore, tmp_path: Path) -> RunFile:
    """Return a run of eleven rows with three URLs, planned in full."""
    table = tmp_path / "list.csv"
    rows = ["http://a.example/,one", "http://A.example:80/#x,two", "http://b.example/,three", "http://c.example/,"]
    table.write_text("url,text\n" + "".join(f"{rows[index % 4]}\n" for index in range(11)), encoding="utf-8")
    record = RunFile("id", str(table), str(store.root), _CONFIG, url_list.fingerprint(str(table)))
    record.create(store)
    listed = prepare_requests(url_list.read(str(table), _CONFIG.source), _CONFIG, store)
    Planner(listed, store, 3, lambda rows, shards: None, record.id)._run()
    return RunFile.load(store)


def plans(store: LocalStore) -> dict[str, bytes]:
    """Return the files of the plan."""
    return {name: store.read(name) for name in store.list_files(plan.FOLDER)}


def test_plan_has_the_duplicates(store: LocalStore, planned: RunFile) -> None:
    """The plan has every row, its caption, and its refusal. The option is in run.json."""
    tables = [plan.decode(store.read(plan.name(shard)), ShardRef("id", shard)) for shard in range(4)]
    rows = [request for table in tables for request in plan.requests(table)]
    assert firsts(rows) == [
        None,
        "000000",
        None,
        None,
        *["000000", "000000", "000002", "000010"],
        *["000000"] * 2,
        "000002",
    ]
    assert tables[0]["caption"].to_pylist() == ["one", "two", "three"]
    assert planned.options.source.dedupe is Dedupe.URL


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_resumed_plan_is_the_same(store: LocalStore, planned: RunFile, shards: int) -> None:
    """If a half-planned run is resumed, it gets the same plan. New rows may be duplicates of planned rows."""
    before = plans(store)
    for shard in range(shards, 4):
        store.remove(plan.name(shard))
    progress = PlanProgress(3 * shards, shards)
    rest = remaining_requests(planned, store, progress)
    Planner(rest, store, 3, lambda rows, shards: None, planned.id, progress)._run()
    assert plans(store) == before


@pytest.mark.parametrize("shards", [[0], [3], [1, 2]], ids=str)
def test_repaired_plan_is_the_same(store: LocalStore, planned: RunFile, shards: list[int]) -> None:
    """Damaged files of a plan are rebuilt with the same refusals."""
    before = plans(store)
    for shard in shards:
        store.replace(plan.name(shard), b"damaged")
    repair_plan(planned, store, 4)
    assert plans(store) == before


@pytest.mark.slow
def test_memory_use_stays_flat(tmp_path: Path) -> None:
    """A million URLs need at most 20 MB more memory than a thousand URLs."""
    code = (
        "import sys, resource; from collections import deque; from pathlib import Path\n"
        "from producer.planning.duplicates import refuse_duplicates; from tasks.model import ImageRequest\n"
        "rows = (ImageRequest(row, f'http://a.example/{row}') for row in range(int(sys.argv[1])))\n"
        "deque(refuse_duplicates(rows, 1000, Path(sys.argv[2]), lambda row: row), 0)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, rows, tmp_path / "seen"], capture_output=True, check=True
            ).stdout
        )
        for rows in ("1000", "1000000")
    )
    assert many - few < 20_000
