"""The errors of a faulty object store are explained without secrets. No write is lost or done twice."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from config.locations import StoreUrl
from tasks.errors import StorageError
from tasks.model import PreviousImage
from tasks.outputs import parquet, webdataset
from tasks.outputs.samples import SampleImage
from tasks.previous_image import PreviousFile
from tasks.storage import folder_probe, object_file, object_store
from tasks.storage.folder_probe import ProbeResult
from tasks.storage.locations import open_allowed, open_store
from tasks.storage.object_store import ObjectStore
from tests.object_server import ObjectServer

URL = StoreUrl.parse("s3://bucket/run")
_TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def server(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """Return an S3 server. Clients wait only briefly between attempts."""
    monkeypatch.setattr(object_store, "_FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(object_store, "_MAX_BACKOFF_SECONDS", 0.002)
    return object_server


@pytest.fixture
def store(server: ObjectServer) -> ObjectStore:
    """Return an empty store."""
    return ObjectStore(URL)


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (403, r"refused access \(403 AccessDenied\); check the credentials"),
        (401, "refused access"),
        (503, r"overloaded or unavailable \(503 SlowDown\)"),
        (429, "overloaded or unavailable"),
        (501, "does not support conditional writes"),
        (400, "answered 400 Fault"),
        (301, "another region; set AWS_REGION"),
    ],
)
def test_explains_errors(server: ObjectServer, store: ObjectStore, status: int, why: str) -> None:
    """The message gives the cause in plain words.

    The message shows neither the server's response nor the id of the credentials.
    """
    server.fault = lambda *_: status
    for action in (lambda: store.create("a", b"1"), lambda: store.replace("a", b"1"), lambda: store.list_files("a")):
        with pytest.raises(StorageError, match=why) as caught:
            action()
        assert "test-id" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_explains_a_missing_bucket(server: ObjectServer) -> None:
    """A missing bucket is named."""
    with pytest.raises(StorageError, match="could not save a: the bucket other does not exist"):
        ObjectStore(StoreUrl.parse("s3://other")).create("a", b"1")


def test_explains_a_missing_server(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is reported as unreachable after some attempts."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(StorageError, match="no connection to the object store: connection refused"):
        ObjectStore(URL).read("a")


def test_waits_for_an_overloaded_store(server: ObjectServer, store: ObjectStore) -> None:
    """A request that fails for a moment is repeated."""
    answers = iter([503, 500, None, 503, None, None])
    server.fault = lambda *_: next(answers, None)
    assert store.create("a", b"1")
    assert store.read("a") == b"1"


@pytest.mark.parametrize("times", [1, 2])
def test_lost_response_to_a_write(server: ObjectServer, store: ObjectStore, times: int) -> None:
    """If the response to a write is lost, the client repeats the write.

    If the stored bytes are the client's own, they count as created.
    """
    answers = iter(["lost"] * times)
    server.fault = lambda method, _: next(answers, None) if method == "PUT" else None
    assert store.create_durably("a", b"1")
    assert server.buckets["bucket"] == {"run/a": b"1"}


def test_lost_response_does_not_hide_the_first_writer(server: ObjectServer, store: ObjectStore) -> None:
    """If another writer was first, its bytes stay, even if the response to the second writer's request is lost."""
    server.buckets["bucket"]["run/a"] = b"first"
    answers = iter(["lost"])
    server.fault = lambda method, _: next(answers, None) if method == "PUT" else None
    assert not store.create_durably("a", b"1")
    assert store.read("a") == b"first"


@pytest.mark.parametrize(("ignored", "why"), [("If-None-Match", "overwrite each other"), ("If-Match", "two producers")])
def test_refuses_a_store_without_conditional_writes(
    server: ObjectServer, store: ObjectStore, ignored: str, why: str
) -> None:
    """A store that ignores a condition is refused, and no test object remains."""
    server.ignores = frozenset([ignored])
    with pytest.raises(StorageError, match=f"ignores .*{ignored}.*{why}"):
        store.check_writable()
    assert server.buckets["bucket"] == {}


def test_replaces_a_version_once(store: ObjectStore) -> None:
    """If two writers have read the same version, only the first writer can replace it."""
    first = store.create_version("a", b"1")
    assert first is not None
    second = store.replace_version("a", b"2", first)
    assert second is not None
    assert store.replace_version("a", b"3", first) is None
    assert store.read_version("a") == (b"2", second)
    store.remove("a")
    assert store.replace_version("a", b"4", second) is None
    assert store.read_version("a") is None


def test_reads_an_open_file_in_blocks(
    server: ObjectServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open file reads only the blocks that are needed. It never mixes the bytes of two versions."""
    monkeypatch.setattr(object_file, "_BLOCK_BYTES", 1000)
    body = bytes(range(250)) * 40
    store.create("a", body)
    server.requests.clear()
    with store.open_file("a") as file, io.BytesIO(body) as expected:
        for place, whence, count in ((-10, os.SEEK_END, -1), (0, os.SEEK_SET, 2500), (5, os.SEEK_CUR, 10)):
            assert file.seek(place, whence) == expected.seek(place, whence)
            assert file.read(count) == expected.read(count)
        assert [method for method, _ in server.requests] == ["HEAD", *["GET"] * 4]
        store.replace("a", b"another")
        file.seek(5000)
        with pytest.raises(StorageError, match="could not read a: it has changed meanwhile"):
            file.read(1)
    with pytest.raises(StorageError, match="could not read b: the object or its bucket does not exist"):
        store.open_file("b")


@pytest.mark.parametrize("packed_format", [webdataset, parquet])
def test_reads_packed_images_in_blocks(
    server: ObjectServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, packed_format: Any
) -> None:
    """A packed file can be read block by block. If the store fails meanwhile, the error says so."""
    monkeypatch.setattr(object_file, "_BLOCK_BYTES", 1000)
    images = [SampleImage(f"{number:06}", "jpg", bytes([number]) * 3000) for number in range(5)]
    rows = pa.table({"key": [image.key for image in images], "bytes": [3000] * len(images)})
    store.replace_from("packed", packed_format.encode(rows, images))
    with store.open_file("packed") as file:
        assert [(image.key, image.body) for image in packed_format.images(file)] == [
            (image.key, image.body) for image in images
        ]
    with store.open_file("packed") as file:
        assert packed_format.sizes(file) == {image.key: 3000 for image in images}
    with store.open_file("packed") as file:
        server.fault = lambda *_: 403
        with pytest.raises(StorageError, match="refused access"):
            packed_format.sizes(file)


def test_worker_opens_only_allowed_prefixes(server: ObjectServer, tmp_path: Path) -> None:
    """Whatever a message says, a worker opens a URL only if the URL is below one of its root URLs."""
    roots: list[Path | StoreUrl] = [tmp_path, StoreUrl.parse("s3://bucket/runs")]
    assert open_allowed("s3://bucket/runs/one", roots).location == "s3://bucket/runs/one"
    for text in ("s3://bucket/run", "s3://bucket/runs/../x", "s3://bucket/runs-2", "gs://bucket/runs/one", "s3://"):
        with pytest.raises(StorageError, match="may not write"):
            open_allowed(text, roots)
    with pytest.raises(StorageError, match="IMAGEFLEET_STORE_ROOTS"):
        open_allowed("s3://bucket/runs/one", [tmp_path])
    assert server.requests == []


def test_probe_of_a_prefix(server: ObjectServer, store: ObjectStore) -> None:
    """If a worker sees the producer's object and can write, it reports this. Otherwise, it reports the reason."""
    folder_probe.write_probe(store, _TOKEN)
    assert folder_probe.probe_folder(str(URL), _TOKEN, [URL]) == ProbeResult(True, True, True)
    assert "may not write" in folder_probe.probe_folder(str(URL), _TOKEN, []).error
    server.fault = lambda method, _: 403 if method == "PUT" else None
    seen = folder_probe.probe_folder(str(URL), _TOKEN, [URL])
    assert (seen.same, seen.writable) == (True, False)
    assert "no file can be created there: could not save" in seen.error
    server.fault = lambda *_: None
    folder_probe.remove_probe(store, _TOKEN)
    assert not folder_probe.probe_folder(str(URL), _TOKEN, [URL]).same
    assert server.buckets["bucket"] == {}


def test_missing_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the extra is not installed, the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(StorageError, match=r"pip install 'imagefleet\[objects\]'"):
        open_store(URL)


def test_previous_image_in_an_unreachable_store(server: ObjectServer, store: ObjectStore) -> None:
    """If a previous run's store fails, the run's image is not reused. The download continues without an error."""
    image = PreviousImage("00000/00000000.png", 2, 2, "png", 4, "0" * 64, etag='"e"')
    store.create(image.path, b"body")
    assert PreviousFile(image, store).validators() is not None
    server.fault = lambda *_: 403
    assert PreviousFile(image, store).validators() is None
    assert PreviousFile(image, store).load() is None


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/some/prefix"])
@pytest.mark.parametrize("name", ["../x", "00000/../../x"])
def test_names_stay_below_the_prefix(server: ObjectServer, url: str, name: str) -> None:
    """A name can't leave the prefix of an object store."""
    with pytest.raises(StorageError, match="could not save"):
        ObjectStore(StoreUrl.parse(url)).create(name, b"1")
    assert server.buckets["bucket"] == {}
