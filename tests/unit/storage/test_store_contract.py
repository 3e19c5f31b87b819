"""The guarantees of every store, tested with a local folder and with an object store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.locations import StoreUrl
from tasks.errors import StorageError
from tasks.storage.local_store import LocalStore
from tasks.storage.object_store import ObjectStore
from tasks.storage.store import Store
from tests.unit.storage.racing import assert_one_writer_wins

_WRITERS = 8


@pytest.fixture(params=["local", "object", "object at the top of a bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind."""
    if request.param == "local":
        return LocalStore(tmp_path / "out")
    request.getfixturevalue("object_server")
    return ObjectStore(StoreUrl.parse("s3://bucket" if "top" in request.param else "s3://bucket/some/prefix"))


def test_creates_and_reads(any_store: Store) -> None:
    """A created file exists under its name with its bytes and its size."""
    any_store.create_folder()
    any_store.check_writable()
    assert any_store.create("00000/a.jpg", b"body")
    assert (any_store.read("00000/a.jpg"), any_store.file_size("00000/a.jpg")) == (b"body", 4)
    assert any_store.exists("00000/a.jpg")
    any_store.sync("00000", ["00000/a.jpg"])
    assert any_store.create("00000/empty", b"")
    assert any_store.file_size("00000/empty") == 0


def test_missing_files(any_store: Store) -> None:
    """A missing file does not exist, has no size, can't be read, and can be removed."""
    assert not any_store.exists("a")
    assert not any_store.folder_exists("a")
    assert any_store.file_size("a") is None
    assert any_store.list_files("a") == []
    assert any_store.list_entries() == []
    with pytest.raises(StorageError, match="could not read a: "):
        any_store.read("a")
    any_store.remove("a")


@pytest.mark.parametrize("method", ["create", "create_durably"])
def test_first_writer_wins(any_store: Store, method: str) -> None:
    """A second writer of a name changes nothing. The result says that the file existed."""
    assert getattr(any_store, method)("00000/a", b"first")
    assert not getattr(any_store, method)("00000/a", b"second")
    assert any_store.read("00000/a") == b"first"


def test_first_of_many_writers_wins(any_store: Store) -> None:
    """If many writers use one name, exactly one writer wins. The file has all of the winner's bytes."""
    assert_one_writer_wins(any_store, _WRITERS)


def test_replaces(any_store: Store) -> None:
    """A file is created or replaced as a whole."""
    any_store.create_folder()
    for body in (b"longer", b"new"):
        any_store.replace("a.json", body)
        assert any_store.read("a.json") == body


def test_replaces_from_chunks(any_store: Store) -> None:
    """A file made of chunks is replaced as a whole. The chunks may come from other files of the same store."""
    any_store.create("00000/a", b"1")
    any_store.replace("00000.tar", b"old")
    any_store.replace_from("00000.tar", (any_store.read("00000/a") for _ in range(3)))
    assert any_store.read("00000.tar") == b"111"
    large = bytes(range(256)) * 4096
    any_store.replace_from("00000.tar", (large for _ in range(9)))
    with any_store.open_file("00000.tar") as file:
        file.seek(8 * len(large))
        assert file.read() == large

    def failing() -> Iterator[bytes]:
        yield b"new"
        raise StorageError("collected by another task")

    with pytest.raises(StorageError, match="collected by another task"):
        any_store.replace_from("00000.tar", failing())
    assert any_store.file_size("00000.tar") == 9 * len(large)


def test_creates_from_an_existing_file(any_store: Store) -> None:
    """Copying a file to an existing name changes nothing, as with any other write."""
    any_store.create("old", b"body")
    assert any_store.create_linked("00000/a.jpg", b"body", any_store, "old")
    assert not any_store.create_linked("00000/a.jpg", b"body", any_store, "old")
    assert (any_store.read("00000/a.jpg"), any_store.read("old")) == (b"body", b"body")


def test_lists(any_store: Store) -> None:
    """A listing has the names directly in a folder, even names with unusual characters."""
    names = ["00000/a b.jpg", "00000/x&<y>%2e#?ü.jpg", "00000/deep/c.jpg", "00001/d.jpg", "run.json"]
    for name in names:
        any_store.create(name, b"1")
    assert sorted(any_store.list_files("00000")) == sorted(names[:2])
    entries = [name for name in any_store.list_entries() if not name.startswith(".")]
    assert entries == ["00000", "00001", "run.json"]
    assert [any_store.contains_files(name) for name in ("00000", "run.json")] == [True, True]
    assert [any_store.folder_exists(name) for name in ("00000", "0000", "run.json")] == [True, False, False]
    any_store.remove(names[1])
    assert any_store.list_files("00000") == [names[0]]


def test_lists_a_large_folder(any_store: Store) -> None:
    """A folder may have more files than one page of a listing."""
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda number: any_store.create(f"00000/{number}", b""), range(1003)))
    assert len(any_store.list_files("00000")) == 1003


def test_scratch_folder(any_store: Store) -> None:
    """Temporary files of a process are on this machine, and are removed at the end."""
    with any_store.scratch_folder("index") as folder:
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"1")
    assert not folder.exists()


def test_messages(any_store: Store) -> None:
    """A message gives the full name of the folder, and the full name of a file in the folder."""
    assert any_store.describe("run.json") == f"{any_store.location}/run.json"
    assert any_store.is_within(any_store)
