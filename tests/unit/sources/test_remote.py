"""URL lists on web servers and in object stores are read like files, and a broken connection loses no row."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.output.run_file import RunConfig, RunFile
from producer.planning.planner import Planner, PlanProgress
from producer.planning.repair import repair_plan
from producer.runs.resume import remaining_requests
from producer.runs.run import Run
from producer.sources import http_object, remote_file, url_list
from producer.sources.options import SourceOptions
from tasks.errors import CommandError, UsageError
from tasks.storage import plan
from tasks.storage.local_store import LocalStore
from tests.list_server import ListServer
from tests.object_server import ObjectServer

_COUNT = 3000
_URLS = [f"http://a.example/{number}.jpg" for number in range(_COUNT)]
_TEXT = "".join(f"{url}\n" for url in _URLS).encode()
_TABLE = b"url,text\n" + b"".join(f'{url},"a, b"\n'.encode() for url in _URLS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a list of 90 KB in several blocks, and repeat a failed request at once."""
    monkeypatch.setattr(http_object, "_FIRST_BLOCK_BYTES", 20_000)
    monkeypatch.setattr(remote_file, "_BLOCK_BYTES", 20_000)
    monkeypatch.setattr("producer.sources.location.HEAD_BYTES", 10_000)
    monkeypatch.setattr(http_object, "_FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture
def web() -> Iterator[ListServer]:
    """Run a web server."""
    with ListServer() as server:
        yield server


def read(source: str, options: SourceOptions | None = None) -> list[str]:
    """Return the URLs of a list."""
    return [request.url for request in url_list.read(source, options or SourceOptions())]


def parquet() -> bytes:
    """Return the URLs as a Parquet file of several row groups."""
    file = io.BytesIO()
    pq.write_table(pa.table({"url": _URLS, "number": range(_COUNT)}), file, row_group_size=500)
    return file.getvalue()


_LISTS = {
    "list.txt": _TEXT,
    "table.csv": _TABLE,
    "table.csv.gz": gzip.compress(_TABLE),
    "list.parquet": parquet(),
}


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("name", _LISTS)
def test_reads_from_the_web(web: ListServer, name: str, has_ranges: bool) -> None:
    """Each format is read, also from a server without ranges.

    The ending of the file name comes before the URL's query.
    """
    web.files[f"/{name}"], web.has_ranges = _LISTS[name], has_ranges
    assert read(f"{web.url}/{name}?X-Amz-Signature=secret") == _URLS
    assert (len(web.requests) > 1) is has_ranges or len(_LISTS[name]) < 20_000
    tags = {request.get("If-Match") for request in web.requests[1:]}
    assert None not in tags
    assert len(tags) <= 1


@pytest.mark.parametrize("name", _LISTS)
def test_reads_from_an_object_store(object_server: ObjectServer, name: str) -> None:
    """Each format is read from an object. The object's name may have characters that a run's folder can't have."""
    object_server.buckets["bucket"][f"my lists/a,b {name}"] = _LISTS[name]
    assert read(f"s3://bucket/my lists/a,b {name}") == _URLS


@pytest.mark.parametrize("fault", ["cut", 503, 429])
def test_continues_after_a_fault(web: ListServer, fault: str | int) -> None:
    """If the connection breaks or the server is overloaded, only the current block is requested again."""
    web.files["/list.txt"] = _TEXT
    web.fault = lambda number: fault if number in (0, 2, 3) else None
    assert read(f"{web.url}/list.txt") == _URLS
    ranges = [request["Range"] for request in web.requests]
    assert ranges[0] == ranges[1]
    assert ranges[2] == ranges[3] == ranges[4] == "bytes=20000-39999"
    assert len(set(ranges)) == len(ranges) - 3


def test_continues_after_a_fault_of_an_object_store(object_server: ObjectServer) -> None:
    """The client repeats a request that an object store could not answer."""
    object_server.buckets["bucket"]["list.txt"] = _TEXT
    object_server.fault = lambda method, _: 503 if method == "GET" and len(object_server.requests) in (3, 5) else None
    assert read("s3://bucket/list.txt") == _URLS


@pytest.mark.parametrize("has_ranges", [True, False])
def test_says_how_far_it_read(web: ListServer, has_ranges: bool) -> None:
    """If the connection stays broken, the error says how much was read. The error hides the URL's signature."""
    web.files["/list.txt"], web.has_ranges = _TEXT, has_ranges
    web.fault = lambda number: "cut" if number > 2 or not has_ranges else None
    with pytest.raises(CommandError, match="can't be read further") as caught:
        read(f"{web.url}/list.txt?token=abc")
    assert "token=***" in caught.value.what
    place = "58.6" if has_ranges else "19.5"
    assert caught.value.why == f"reading stopped after {place} KiB of 75.1 KiB: the connection broke"
    assert "producer resume" in caught.value.hint


@pytest.mark.parametrize("versions", [("ETag",), ("Last-Modified",), ()])
def test_notices_a_change_while_reading(web: ListServer, versions: tuple[str, ...]) -> None:
    """If a list is replaced while it is read, its rows are never mixed with the new list's rows."""
    web.files["/list.txt"], web.versions = _TEXT, versions

    def replace_it(number: int) -> None:
        if number == 2:
            web.files["/list.txt"] = _TEXT[:-1]

    web.fault = replace_it
    with pytest.raises(CommandError, match="it was changed meanwhile"):
        read(f"{web.url}/list.txt")


def test_notices_a_changed_object(object_server: ObjectServer) -> None:
    """If an object is replaced while it is read, its rows are never mixed with the new object's rows."""
    object_server.buckets["bucket"]["list.txt"] = _TEXT
    requests = url_list.read("s3://bucket/list.txt")
    next(iter(requests))
    object_server.buckets["bucket"]["list.txt"] = _TEXT.replace(b"example", b"changed")
    with pytest.raises(CommandError, match="it was changed meanwhile"):
        list(requests)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (404, "the server answered 404 Not Found"),
        (403, "the server answered 403 Forbidden"),
        (503, "the server answered 503 Service Unavailable"),
    ],
)
def test_refusals_of_a_web_server(web: ListServer, status: int, why: str) -> None:
    """If a list can't be opened, the error quotes the server's answer. It shows no password."""
    web.fault = lambda _: status
    with pytest.raises(UsageError, match="can't be read") as caught:
        read(web.url.replace("://", "://user:secret@") + "/list.txt")
    assert caught.value.why == why
    assert "***@127.0.0.1" in caught.value.what
    assert "secret" not in str(caught.value)
    assert web.requests[0]["Authorization"].startswith("Basic ")


def test_server_without_an_answer(web: ListServer) -> None:
    """An unreachable server and an invalid URL are reported as such."""
    web.server_close()
    for url, why in ((f"{web.url}/x", "no connection to the server"), ("http://[x/", "its URL, or that of a redirect")):
        with pytest.raises(UsageError, match="can't be read") as caught:
            read(url)
        assert why in caught.value.why


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://bucket/missing.txt", "the object or its bucket does not exist"),
        ("s3://bucket", "its URL names no object"),
        ("s3://b%20/list.txt", "the bucket's name is missing or not valid"),
    ],
)
def test_no_such_object(object_server: ObjectServer, url: str, why: str) -> None:
    """A missing object, and a URL that names no object, are reported as such."""
    with pytest.raises(UsageError, match="can't be read") as caught:
        read(url)
    assert caught.value.why == why


def test_reads_folders_and_patterns(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store, folders and patterns select objects as they select files.

    The objects are in the order of names.
    """
    objects = object_server.buckets["bucket"]
    for number, name in enumerate(("b.txt", "a.txt", "x/c.txt", "x/y/d.txt", ".hidden", "_SUCCESS", "list.csv")):
        objects[f"lists/{name}"] = f"http://{number}.example/\n".encode()
    objects["lists/"] = objects["other.txt"] = b""
    for pattern, expected in (
        ("lists/*.txt", [1, 0]),
        ("lists/[b-z].txt", [0]),
        ("lists/**/*.txt", [1, 0, 2, 3]),
        ("lists/x/", [2]),
        ("*/x/?.txt", [2]),
    ):
        source = f"s3://bucket/{pattern}"
        assert read(source) == [f"http://{number}.example/" for number in expected], pattern
        found = url_list.fingerprint(source)
        assert found is not None
        assert found.startswith(f"{len(expected)} files:")
    found = url_list.fingerprint("s3://bucket/lists/*.txt")
    objects["lists/a.txt"] = b"http://changed.example/"
    assert not url_list.is_unchanged("s3://bucket/lists/*.txt", found)
    with pytest.raises(UsageError, match="No object matches s3://bucket/none/"):
        read("s3://bucket/none/")
    object_server.fault = lambda *_: 403
    with pytest.raises(UsageError, match=r"refused access \(403"):
        read("s3://bucket/lists/")


def test_no_permission_for_an_object(object_server: ObjectServer) -> None:
    """If the store refuses access, the message says what to check."""
    object_server.fault = lambda *_: 403
    with pytest.raises(UsageError, match=r"refused access \(403\)"):
        read("s3://bucket/list.txt")


def test_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the client is not installed, the message names the extra to install."""
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UsageError, match=r"pip install 'imagefleet\[objects\]'"):
        read("gs://bucket/list.txt")


def test_empty_lists(web: ListServer, object_server: ObjectServer) -> None:
    """A list without bytes is read as an empty list."""
    web.files["/list.txt"] = object_server.buckets["bucket"]["list.txt"] = b""
    for source in (f"{web.url}/list.txt", "s3://bucket/list.txt"):
        assert read(source) == []


def test_fingerprints(web: ListServer, object_server: ObjectServer) -> None:
    """The fingerprint changes with the list. If the server gives no version, there is no fingerprint."""
    for source, files, name in (
        (f"{web.url}/list.txt", web.files, "/list.txt"),
        ("s3://bucket/list.txt", object_server.buckets["bucket"], "list.txt"),
    ):
        files[name] = _TEXT
        found = url_list.fingerprint(source)
        assert url_list.is_unchanged(source, found)
        files[name] = _TEXT.replace(b"example", b"changed")
        assert not url_list.is_unchanged(source, found)
        assert url_list.explain_difference(source) == f"the list {source} is missing or has changed"
        del files[name]
        assert url_list.fingerprint(source) is None
        assert "can't be read: the " in url_list.explain_difference(source)
    web.files["/list.txt"], web.versions = _TEXT, ()
    assert url_list.fingerprint(f"{web.url}/list.txt") is None
    assert "no ETag or Last-Modified" in url_list.explain_difference(f"{web.url}/list.txt")


def plans(store: LocalStore) -> dict[str, bytes]:
    """Return the files of the plan."""
    return {name: store.read(name) for name in store.list_files(plan.FOLDER)}


def test_resumes_and_repairs_a_plan(web: ListServer, tmp_path: Path) -> None:
    """A plan is continued from an unchanged remote list, and its damaged files are rebuilt.

    From a changed list, nothing is planned or rebuilt.
    """
    web.files["/list.txt"] = _TEXT
    source, store = f"{web.url}/list.txt?token=abc", LocalStore(tmp_path)
    record = RunFile("id", source, str(tmp_path), RunConfig(), url_list.fingerprint(source))
    record.create(store)
    Planner(url_list.read(source), store, 1000, lambda rows, shards: None, "id")._run()
    before = plans(store)
    assert len(before) == 3
    store.remove(plan.name(2))
    half = PlanProgress(2000, 2)
    Planner(remaining_requests(record, store, half), store, 1000, lambda rows, shards: None, "id", half)._run()
    assert plans(store) == before
    store.replace(plan.name(1), b"damaged")
    repair_plan(record, store, 3)
    assert plans(store) == before
    store.replace(plan.name(1), b"damaged")
    web.files["/list.txt"] += b"http://a.example/more"
    for attempt in (lambda: repair_plan(record, store, 3), lambda: list(remaining_requests(record, store, half))):
        with pytest.raises(CommandError) as caught:
            attempt()
        assert "token=*** is missing or has changed" in caught.value.why


def test_run_shows_no_signature(web: ListServer, tmp_path: Path) -> None:
    """A run records its list's URL as given, so that the run can be resumed.

    The run never shows the URL's signature.
    """
    web.files["/list.txt"] = _TEXT
    source, store = f"{web.url}/list.txt?sig=abc", LocalStore(tmp_path)
    with Run.begin(url_list.read(source), source, store, RunConfig()) as run:
        assert run.source == f"{web.url}/list.txt?sig=***"
    assert RunFile.load(store).source == source
    assert store.path("run.json").stat().st_mode & 0o077 == 0
