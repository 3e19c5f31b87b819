"""An output folder is made, tried, and refused where it holds a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer import lock
from producer.output import begun, output, standing
from producer.runfile import Options, RunFile
from tasks.errors import Fault, UsageFault
from tasks.storage import TEMPORARY, Store


def test_output_folder_is_made(tmp_path: Path) -> None:
    """A folder that is missing is made, with those above it, and nothing is left of the trial write."""
    store = output(tmp_path / "a" / "b")
    assert store.root == tmp_path / "a" / "b"
    assert [path.name for path in store.root.iterdir() if path.name != TEMPORARY] == []


def test_output_folder_is_the_real_one(tmp_path: Path) -> None:
    """A link is followed once, at the start: the workers compare real paths with their roots."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert output(tmp_path / "link").root == tmp_path / "real"


@pytest.mark.parametrize(
    ("name", "why"), [("file", "File exists"), ("file/below", "Not a directory"), ("/proc/imagefleet", "No such file")]
)
def test_output_folder_that_can_not_be_written(tmp_path: Path, name: str, why: str) -> None:
    """Where nothing can be written, the reason is the system's, and what to do is said."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageFault, match=f"can't be written: {why}") as caught:
        output(tmp_path / name)
    assert "Choose a folder" in caught.value.todo


def test_output_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    """A folder that holds a run takes no other."""
    RunFile("id", "list.txt", "/out", Options()).create(Store(tmp_path))
    with pytest.raises(UsageFault, match="already holds a run"):
        output(tmp_path)


def test_folder_in_use_is_told_first(tmp_path: Path) -> None:
    """Who begins a run where another producer works is told that, and not to remove what is left of a run."""
    with begun(tmp_path, None) as store:
        RunFile("id", "list.txt", "/out", Options()).create(store)
        (tmp_path / TEMPORARY).mkdir(exist_ok=True)
        (tmp_path / TEMPORARY / "image").touch()
        with pytest.raises(UsageFault, match="Another producer works on") as caught, begun(tmp_path, None):
            pytest.fail("begun twice")
        assert "remove" not in caught.value.todo
        assert (tmp_path / TEMPORARY / "image").exists()


def fail(out: Path, *names: str) -> None:
    """Begin a run in a folder, and fail once files of these names are there."""

    def begin() -> None:
        with begun(out, None) as store:
            assert store.entries() == [".lock"]
            for name in names:
                store.replace(name, b"")
            raise KeyError

    with pytest.raises(KeyError):
        begin()


def test_folder_that_was_made_in_vain_is_removed(tmp_path: Path) -> None:
    """Where nothing comes of a run, the folders that were made for it go, and those that were there stay."""
    fail(tmp_path / "a" / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("name", ["run.json", "mine.txt"])
def test_folder_with_something_in_it_stays(tmp_path: Path, name: str) -> None:
    """A run that has begun, or what somebody has put there meanwhile, is not removed."""
    fail(tmp_path / "out", name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([".lock", name])


def test_folder_of_another_producer_stays(tmp_path: Path) -> None:
    """Who is refused because another has the lock removes nothing."""
    out = tmp_path / "out"
    with begun(out, None), pytest.raises(Fault, match="Another producer"), begun(out, None):
        pytest.fail("held twice")
    assert lock.holder(out) is None
    assert out.is_dir()


def test_folder_without_a_run_gets_no_lock(tmp_path: Path) -> None:
    """A folder that has nothing to do with us is told before a file of ours is in it."""
    with pytest.raises(UsageFault, match="holds no run"):
        standing(tmp_path)
    assert list(tmp_path.iterdir()) == []
