"""A file is whole or absent, the first writer wins, and nothing is written outside the operator's folders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import StorageError
from tasks.storage import local_store as store_module
from tasks.storage.local_store import TEMPORARY_FOLDER, LocalStore
from tasks.storage.store import PRIVATE_MODE
from tests.unit.storage.racing import assert_one_writer_wins
from tests.waiting import wait_for

_WRITERS = 16


def temporary_files(store: LocalStore) -> list[str]:
    """Return the names in the folder of temporary files."""
    return [path.name for path in store.root.glob(f"{TEMPORARY_FOLDER}/*")]


def without_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Simulate a file system without hard links.

    Linking fails with this error, or with ENOENT if the folder is missing.
    """

    def link(_: object, target: str, **__: object) -> None:
        if not Path(target).parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.fixture(params=["links", "EPERM", "ENOTSUP"])
def any_store(request: pytest.FixtureRequest, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """Return a LocalStore on a file system with hard links, and then on file systems without hard links."""
    if request.param != "links":
        without_links(monkeypatch, getattr(errno, request.param))
    return store


def test_creates_a_whole_file(any_store: LocalStore) -> None:
    """The saved bytes are under their name in a newly created folder. No temporary file remains."""
    assert any_store.create("00000/a.jpg", b"body")
    assert any_store.exists("00000/a.jpg")
    assert any_store.read("00000/a.jpg") == b"body"
    assert temporary_files(any_store) == []


def test_does_not_replace_an_existing_file(any_store: LocalStore) -> None:
    """The second writer of a name changes nothing. The result says that the file existed."""
    assert any_store.create("00000/a.jpg", b"first")
    assert not any_store.create("00000/a.jpg", b"second")
    assert any_store.read("00000/a.jpg") == b"first"
    assert temporary_files(any_store) == []


def test_first_of_many_writers_wins(any_store: LocalStore) -> None:
    """If many writers use one name, exactly one writer wins. The file has all of the winner's bytes."""
    assert_one_writer_wins(any_store, _WRITERS)
    assert temporary_files(any_store) == []


def test_links_an_existing_file(store: LocalStore) -> None:
    """An existing file elsewhere on the disk gets a second name. No bytes are written, and the file stays unchanged."""
    (store.root / "old").write_bytes(b"body")
    assert store.create_linked("00000/a.jpg", b"body", store, "old")
    assert store.path("00000/a.jpg").samefile(store.path("old"))
    assert not store.create_linked("00000/a.jpg", b"body", store, "old")
    assert temporary_files(store) == []


def test_copies_a_file_without_hard_links(any_store: LocalStore) -> None:
    """Without hard links, the bytes are written again. The existing file stays."""
    (any_store.root / "old").write_bytes(b"body")
    assert any_store.create_linked("00000/a.jpg", b"body", any_store, "old")
    assert not any_store.create_linked("00000/a.jpg", b"body", any_store, "old")
    assert (any_store.read("00000/a.jpg"), any_store.read("old")) == (b"body", b"body")
    assert temporary_files(any_store) == []


@pytest.mark.parametrize("spoil", ["gone", "another", "a link"])
def test_does_not_link_a_changed_file(store: LocalStore, spoil: str) -> None:
    """The new name always gets the requested bytes, even if the existing file has changed."""
    file = store.path("old")
    if spoil == "another":
        file.write_bytes(b"else")
    elif spoil == "a link":
        store.path("there").write_bytes(b"body")
        file.symlink_to(store.path("there"))
    assert store.create_linked("00000/a.jpg", b"body", store, "old")
    standing = store.path("00000/a.jpg")
    assert (standing.read_bytes(), standing.is_symlink(), standing.stat().st_nlink) == (b"body", False, 1)
    assert temporary_files(store) == []


def test_takes_over_the_claim_of_a_dead_writer(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without links, a name that a dead writer has claimed is released after a while."""
    without_links(monkeypatch, errno.EPERM)
    monkeypatch.setattr(store_module, "_CLAIM_TTL_SECONDS", 0.02)
    store.path("00000").mkdir()
    store.path("00000/.a.jpg.claim").touch()
    assert store.create("00000/a.jpg", b"body")
    assert store.read("00000/a.jpg") == b"body"


def test_waits_for_the_claim_of_a_live_writer(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without links, the second writer waits until the first writer has given the file its name."""
    without_links(monkeypatch, errno.EPERM)
    store.path("00000").mkdir()
    store.path("00000/.a.jpg.claim").touch()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(store.create, "00000/a.jpg", b"second")
        wait_for(lambda: len(temporary_files(store)) == 1)
        store.path("00000/a.jpg").write_bytes(b"first")
        assert second.result() is False
    assert store.read("00000/a.jpg") == b"first"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("method", ["create", "create_durably", "replace"])
def test_failed_write_leaves_no_file(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    """If the disk becomes full during a write, no new or temporary file remains, and an existing file is unchanged."""
    store.replace("b.json", b"old")
    written: list[int] = []
    real = os.write

    def write(descriptor: int, body: bytes) -> int:
        if written:
            raise OSError(number, os.strerror(number))
        written.append(real(descriptor, body[:2]))
        return 2

    monkeypatch.setattr(os, "write", write)
    name = "b.json" if method == "replace" else "a.jpg"
    with pytest.raises(StorageError, match=f"could not save {name}: {os.strerror(number)}"):
        getattr(store, method)(name, b"body")
    assert written == [2]
    assert {path.name for path in store.root.iterdir()} == {TEMPORARY_FOLDER, "b.json"}
    assert store.read("b.json") == b"old"
    assert temporary_files(store) == []


def test_completes_short_writes(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that accepts only some of the bytes is repeated until all are written."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, body: real(descriptor, body[:3]))
    store.create("a.jpg", b"0123456789")
    assert store.read("a.jpg") == b"0123456789"


_ACTIONS: dict[str, Callable[[LocalStore], object]] = {
    "create": lambda store: store.create("00000/a.jpg", b"body"),
    "create_durably": lambda store: store.create_durably("a.json", b"body"),
    "replace": lambda store: store.replace("a.json", b"body"),
    "read": lambda store: store.read("a.json"),
    "sync": lambda store: store.sync("00000", ["00000/a.jpg"]),
    "list_files": lambda store: store.list_files("00000"),
    "remove": lambda store: store.remove("a.json"),
}


@pytest.mark.parametrize("action", _ACTIONS.values(), ids=_ACTIONS)
def test_unusable_folder(tmp_path: Path, action: Callable[[LocalStore], object]) -> None:
    """Every operation in an unusable folder raises one of our errors."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="Not a directory"):
        action(LocalStore(tmp_path / "file"))


def test_file_in_place_of_a_shard_folder(store: LocalStore) -> None:
    """If a file has the name of a shard's folder, the shard can't be saved, and no temporary file remains."""
    store.create("00000", b"")
    with pytest.raises(StorageError, match="Not a directory"):
        store.create("00000/a.jpg", b"body")
    assert temporary_files(store) == []


def test_replaces_a_whole_file(store: LocalStore) -> None:
    """An existing file is replaced, and no temporary file remains."""
    store.replace("a.json", b"old")
    store.replace("a.json", b"new")
    assert store.read("a.json") == b"new"
    assert temporary_files(store) == []


def test_file_modes(store: LocalStore) -> None:
    """Images have the permissions of the umask. Files with URLs are accessible only to their owner."""
    before = os.umask(0o027)
    try:
        store.create("a.jpg", b"")
        store.create_durably("a.parquet", b"")
        store.replace("a.json", b"")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(store.path(name).stat().st_mode) for name in ("a.jpg", "a.parquet", "a.json")}
    assert modes == {"a.jpg": 0o640, "a.parquet": PRIVATE_MODE, "a.json": PRIVATE_MODE}


def test_syncs_a_durable_file_before_naming_it(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest is synced to the disk before it gets its name. The folder is synced after that."""
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def linked(source: str, target: Path) -> None:
        steps.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    store.create_durably("a.parquet", b"body")
    assert steps == ["file", "name", "folder"]
    steps.clear()
    store.create("a.jpg", b"body")
    assert steps == ["name"]


def test_syncs_files_and_their_folder(store: LocalStore) -> None:
    """A shard's files can be synced. A missing file is an error.

    A missing folder is no error if it should have no files.
    """
    store.create("00000/a.jpg", b"body")
    store.sync("00000", ["00000/a.jpg"])
    store.sync("00001", [])
    with pytest.raises(StorageError, match="could not sync 00000: No such file"):
        store.sync("00000", ["00000/b.jpg"])


def test_lists_and_removes_files(store: LocalStore) -> None:
    """Files are listed by folder and removed by name. Removing a missing file is no error."""
    for name in ("00000/a.jpg", "00000/b.jpg", "00001/c.jpg"):
        store.create(name, b"")
    store.remove("00000/a.jpg")
    store.remove("00000/a.jpg")
    assert store.list_files("00000") == ["00000/b.jpg"]
    assert store.list_files("00002") == []


@pytest.mark.parametrize("root", ["{base}", "{base}/run", "{base}/a/../run", "{base}/inside/run"])
def test_allows_a_store_below_a_root(tmp_path: Path, root: str) -> None:
    """A root, the folders below the root, and links that stay below the root are allowed."""
    base = tmp_path / "base"
    (base / "real").mkdir(parents=True)
    (base / "inside").symlink_to(base / "real")
    path = root.format(base=base)
    assert LocalStore.open_allowed(path, [tmp_path / "other", base]).root == Path(path).resolve()


@pytest.mark.parametrize(
    "root",
    ["{base}/..", "{base}/../other", "{base}-2", "{base}/outside/run", "base", "", "/", "{base}/\0"],
    ids=["parent", "sibling", "common prefix", "link to the outside", "relative", "empty", "root", "zero byte"],
)
def test_refuses_a_store_outside_the_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """Writing outside the roots is refused, whatever a message says. The error names the setting."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "outside").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="IMAGEFLEET_STORE_ROOTS"):
        LocalStore.open_allowed(root.format(base=base), [base])


def test_without_roots_nothing_is_allowed(tmp_path: Path) -> None:
    """A worker without roots may write nowhere."""
    with pytest.raises(StorageError):
        LocalStore.open_allowed(str(tmp_path), [])


def test_removes_temporary_files_of_killed_writers(tmp_path: Path) -> None:
    """Abandoned temporary files are removed with their folder, and named files stay."""
    store = LocalStore(tmp_path)
    store.create("00000/a.jpg", b"a")
    (tmp_path / ".tmp").mkdir(exist_ok=True)
    (tmp_path / ".tmp/abandoned").write_bytes(b"par")
    for _ in range(2):
        store.remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == ["00000"]


def test_replaces_from_chunks(store: LocalStore) -> None:
    """Chunks become one private file, which replaces an existing file as a whole."""
    store.replace_from("00000/a.parquet", iter([b"", b"first"]))
    store.replace_from("00000/a.parquet", (bytes([number]) * 3_000_000 for number in range(3)))
    assert store.read("00000/a.parquet") == b"".join(bytes([number]) * 3_000_000 for number in range(3))
    assert stat.S_IMODE(store.path("00000/a.parquet").stat().st_mode) == PRIVATE_MODE
    with store.open_file("00000/a.parquet") as file:
        file.seek(3_000_000)
        assert file.read(1) == b"\1"
    assert temporary_files(store) == []


def test_error_of_chunks_keeps_the_file(store: LocalStore) -> None:
    """If producing the chunks fails, the existing file stays. The error reaches the caller."""

    def broken() -> Iterator[bytes]:
        yield b"new"
        raise StorageError("could not read a.jpg")

    store.replace_from("00000.tar", [b"old"])
    with pytest.raises(StorageError, match=r"could not read a\.jpg"):
        store.replace_from("00000.tar", broken())
    assert (store.read("00000.tar"), temporary_files(store)) == (b"old", [])


def test_removes_only_empty_folders(store: LocalStore) -> None:
    """A folder is removed together with its last file. A missing folder is no error."""
    store.create("00000/a.jpg", b"")
    store.remove_folder("00000")
    assert store.exists("00000/a.jpg")
    store.remove("00000/a.jpg")
    store.remove_folder("00000")
    store.remove_folder("00000")
    assert store.list_entries() == [TEMPORARY_FOLDER]
