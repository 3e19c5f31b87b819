"""A file is whole or absent, the first writer wins, and nothing is written where the operator denies it."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks import storage
from tasks.errors import StorageFailed
from tasks.storage import PRIVATE, TEMPORARY, Store
from tests.conditions import wait_for

_WRITERS = 16


def left(store: Store) -> list[str]:
    """What stands in the folder of temporary files."""
    return [path.name for path in store.root.glob(f"{TEMPORARY}/*")]


def without_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the file system have no hard links: it refuses each with this error, once it has found the folder."""

    def link(_: object, target: str, **__: object) -> None:
        if not Path(target).parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.fixture(params=["links", "EPERM", "ENOTSUP"])
def either(request: pytest.FixtureRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A Store on a file system with hard links, and on those without."""
    if request.param != "links":
        without_links(monkeypatch, getattr(errno, request.param))
    return store


def test_created_file_is_whole(either: Store) -> None:
    """Bytes that were saved stand under their name, in a folder made for them, and nothing temporary is left."""
    assert either.create("00000/a.jpg", b"body")
    assert either.exists("00000/a.jpg")
    assert either.read("00000/a.jpg") == b"body"
    assert left(either) == []


def test_taken_name_stays_as_it_is(either: Store) -> None:
    """Who comes second changes nothing and is told so."""
    assert either.create("00000/a.jpg", b"first")
    assert not either.create("00000/a.jpg", b"second")
    assert either.read("00000/a.jpg") == b"first"
    assert left(either) == []


def test_first_of_many_writers_wins(either: Store) -> None:
    """Of many writers of one name exactly one wins, and the file is that one's, whole."""
    barrier = threading.Barrier(_WRITERS)

    def write(number: int) -> bool:
        barrier.wait()
        return either.create("00000/a.jpg", bytes([number]) * 50_000)

    with ThreadPoolExecutor(_WRITERS) as pool:
        won = list(pool.map(write, range(_WRITERS)))
    assert won.count(True) == 1
    assert either.read("00000/a.jpg") == bytes([won.index(True)]) * 50_000
    assert left(either) == []


def test_file_that_is_there_already_is_linked(store: Store) -> None:
    """A file elsewhere on the disk gets the name as a second one: nothing is written, and it stays as it was."""
    (store.root / "old").write_bytes(b"body")
    assert store.create_linked("00000/a.jpg", b"body", store.path("old"))
    assert store.path("00000/a.jpg").samefile(store.path("old"))
    assert not store.create_linked("00000/a.jpg", b"body", store.path("old"))
    assert left(store) == []


def test_file_that_can_not_be_linked_is_copied(either: Store) -> None:
    """Where there are no hard links, the bytes are written; the file that has them stays."""
    (either.root / "old").write_bytes(b"body")
    assert either.create_linked("00000/a.jpg", b"body", either.path("old"))
    assert not either.create_linked("00000/a.jpg", b"body", either.path("old"))
    assert (either.read("00000/a.jpg"), either.read("old")) == (b"body", b"body")
    assert left(either) == []


@pytest.mark.parametrize("spoil", ["gone", "another", "a link"])
def test_file_that_is_another_by_now_is_not_linked(store: Store, spoil: str) -> None:
    """What gets the name are the bytes that were wanted, whatever has become of the file meanwhile."""
    file = store.path("old")
    if spoil == "another":
        file.write_bytes(b"else")
    elif spoil == "a link":
        store.path("there").write_bytes(b"body")
        file.symlink_to(store.path("there"))
    assert store.create_linked("00000/a.jpg", b"body", file)
    standing = store.path("00000/a.jpg")
    assert (standing.read_bytes(), standing.is_symlink(), standing.stat().st_nlink) == (b"body", False, 1)
    assert left(store) == []


def test_claim_of_a_dead_writer_is_taken_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without links, a name that was claimed by a writer that died is free again after a while."""
    without_links(monkeypatch, errno.EPERM)
    monkeypatch.setattr(storage, "_CLAIM_LIFETIME", 0.02)
    store.path("00000").mkdir()
    store.path("00000/.a.jpg.claim").touch()
    assert store.create("00000/a.jpg", b"body")
    assert store.read("00000/a.jpg") == b"body"


def test_claim_of_a_living_writer_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without links, who comes second waits until the first has given its file its name."""
    without_links(monkeypatch, errno.EPERM)
    store.path("00000").mkdir()
    store.path("00000/.a.jpg.claim").touch()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(store.create, "00000/a.jpg", b"second")
        wait_for(lambda: len(left(store)) == 1)
        store.path("00000/a.jpg").write_bytes(b"first")
        assert second.result() is False
    assert store.read("00000/a.jpg") == b"first"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("method", ["create", "create_durably", "replace"])
def test_failed_write_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, method: str, number: int) -> None:
    """A disk that is full half way leaves neither a file nor a temporary one, and what stood before stands."""
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
    with pytest.raises(StorageFailed, match=f"could not save {name}: {os.strerror(number)}"):
        getattr(store, method)(name, b"body")
    assert written == [2]
    assert {path.name for path in store.root.iterdir()} == {TEMPORARY, "b.json"}
    assert store.read("b.json") == b"old"
    assert left(store) == []


def test_short_writes_are_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only some of the bytes is followed by more until all are written."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, body: real(descriptor, body[:3]))
    store.create("a.jpg", b"0123456789")
    assert store.read("a.jpg") == b"0123456789"


_ACTIONS: dict[str, Callable[[Store], object]] = {
    "create": lambda store: store.create("00000/a.jpg", b"body"),
    "create_durably": lambda store: store.create_durably("a.json", b"body"),
    "replace": lambda store: store.replace("a.json", b"body"),
    "read": lambda store: store.read("a.json"),
    "sync": lambda store: store.sync("00000", ["00000/a.jpg"]),
    "names": lambda store: store.names("00000"),
    "remove": lambda store: store.remove("a.json"),
}


@pytest.mark.parametrize("action", _ACTIONS.values(), ids=_ACTIONS)
def test_folder_that_can_not_be_used(tmp_path: Path, action: Callable[[Store], object]) -> None:
    """Whatever is done in a folder that can't be one, the error is of the tree."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match="Not a directory"):
        action(Store(tmp_path / "file"))


def test_file_in_place_of_a_shard_folder(store: Store) -> None:
    """A shard whose folder's name is taken by a file can't be saved, and nothing temporary is left."""
    store.create("00000", b"")
    with pytest.raises(StorageFailed, match="Not a directory"):
        store.create("00000/a.jpg", b"body")
    assert left(store) == []


def test_replace_is_whole(store: Store) -> None:
    """What stood under a name is replaced, and nothing temporary is left."""
    store.replace("a.json", b"old")
    store.replace("a.json", b"new")
    assert store.read("a.json") == b"new"
    assert left(store) == []


def test_modes(store: Store) -> None:
    """Images are for whom the umask allows; what holds URLs is for its owner alone."""
    before = os.umask(0o027)
    try:
        store.create("a.jpg", b"")
        store.create_durably("a.parquet", b"")
        store.replace("a.json", b"")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(store.path(name).stat().st_mode) for name in ("a.jpg", "a.parquet", "a.json")}
    assert modes == {"a.jpg": 0o640, "a.parquet": PRIVATE, "a.json": PRIVATE}


def test_durable_bytes_are_synced_before_they_have_their_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest is on the disk before its name says that it is there, and the folder after."""
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


def test_sync_takes_files_and_folder(store: Store) -> None:
    """A shard's files can be put on the disk; a file that is missing is an error, an absent folder of none is not."""
    store.create("00000/a.jpg", b"body")
    store.sync("00000", ["00000/a.jpg"])
    store.sync("00001", [])
    with pytest.raises(StorageFailed, match="could not sync 00000: No such file"):
        store.sync("00000", ["00000/b.jpg"])


def test_names_and_remove(store: Store) -> None:
    """Files are listed by folder and removed by name; what is not there needs no removing."""
    for name in ("00000/a.jpg", "00000/b.jpg", "00001/c.jpg"):
        store.create(name, b"")
    store.remove("00000/a.jpg")
    store.remove("00000/a.jpg")
    assert store.names("00000") == ["00000/b.jpg"]
    assert store.names("00002") == []


@pytest.mark.parametrize("root", ["{base}", "{base}/run", "{base}/a/../run", "{base}/inside/run"])
def test_store_below_an_allowed_folder(tmp_path: Path, root: str) -> None:
    """A root itself, what is below it, and links that stay below it may be written to."""
    base = tmp_path / "base"
    (base / "real").mkdir(parents=True)
    (base / "inside").symlink_to(base / "real")
    path = root.format(base=base)
    assert Store.below(path, [tmp_path / "other", base]).root == Path(path).resolve()


@pytest.mark.parametrize(
    "root",
    ["{base}/..", "{base}/../other", "{base}-2", "{base}/outside/run", "base", "", "/", "{base}/\0"],
    ids=["parent", "sibling", "same beginning", "link that leads out", "relative", "empty", "root", "zero byte"],
)
def test_store_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    """What is not below a root may not be written to, whatever a message says, and the message names the setting."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "outside").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageFailed, match="IMAGEFLEET_STORE_ROOTS"):
        Store.below(root.format(base=base), [base])


def test_without_roots_nothing_is_allowed(tmp_path: Path) -> None:
    """A worker without roots may write nowhere."""
    with pytest.raises(StorageFailed):
        Store.below(str(tmp_path), [])


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    """A temporary file that nobody will name any more goes with its folder, and what has its name stays."""
    store = Store(tmp_path)
    store.create("00000/a.jpg", b"a")
    (tmp_path / ".tmp").mkdir(exist_ok=True)
    (tmp_path / ".tmp/left").write_bytes(b"par")
    for _ in range(2):
        store.remove_left()
    assert [path.name for path in tmp_path.iterdir()] == ["00000"]
