"""An output folder is created and tested for writing. An output folder is refused if it already holds a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.output import lock
from producer.output.folder import existing_run, new_run_folder, prepare_output
from producer.output.run_file import RunConfig, RunFile
from tasks.errors import CommandError, UsageError
from tasks.storage.local_store import TEMPORARY_FOLDER, LocalStore


def test_creates_the_output_folder(tmp_path: Path) -> None:
    """A missing folder is created with its parents, and the test write leaves nothing behind."""
    store = prepare_output(tmp_path / "a" / "b")
    assert store.location == str(tmp_path / "a" / "b")
    assert [name for name in store.list_entries() if name != TEMPORARY_FOLDER] == []


def test_resolves_links_in_the_output_folder(tmp_path: Path) -> None:
    """A symbolic link is resolved once, at the start, because the workers compare real paths with their roots."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert prepare_output(tmp_path / "link").location == str(tmp_path / "real")


@pytest.mark.parametrize(
    ("name", "why"), [("file", "File exists"), ("file/below", "Not a directory"), ("/proc/imagefleet", "No such file")]
)
def test_refuses_an_unwritable_output_folder(tmp_path: Path, name: str, why: str) -> None:
    """If the folder can't be written to, the error gives the system's reason and a remedy."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=f"can't be written: {why}") as caught:
        prepare_output(tmp_path / name)
    assert "Choose a folder" in caught.value.hint


def test_refuses_an_output_folder_with_a_run(tmp_path: Path) -> None:
    """A folder that holds a run accepts no other run."""
    RunFile("id", "list.txt", "/out", RunConfig()).create(LocalStore(tmp_path))
    with pytest.raises(UsageError, match="already holds a run"):
        prepare_output(tmp_path)


def test_reports_a_folder_in_use_first(tmp_path: Path) -> None:
    """If a folder is in use, a new run reports the other producer.

    The error does not advise to remove the other run's files.
    """
    with new_run_folder(tmp_path, None) as store:
        RunFile("id", "list.txt", "/out", RunConfig()).create(store)
        (tmp_path / TEMPORARY_FOLDER).mkdir(exist_ok=True)
        (tmp_path / TEMPORARY_FOLDER / "image").touch()
        with pytest.raises(UsageError, match="Another producer works on") as caught, new_run_folder(tmp_path, None):
            pytest.fail("begun twice")
        assert "remove" not in caught.value.hint
        assert (tmp_path / TEMPORARY_FOLDER / "image").exists()


def fail(out: Path, *names: str) -> None:
    """Start a run in a folder, and fail as soon as files with these names exist."""

    def begin() -> None:
        with new_run_folder(out, None) as store:
            assert store.list_entries() == [".lock"]
            for name in names:
                store.replace(name, b"")
            raise KeyError

    with pytest.raises(KeyError):
        begin()


def test_removes_unused_new_folders(tmp_path: Path) -> None:
    """If a run fails to start, the folders made for it are removed, and existing folders are kept."""
    fail(tmp_path / "a" / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    fail(tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("name", ["run.json", "mine.txt"])
def test_keeps_a_folder_with_files(tmp_path: Path, name: str) -> None:
    """A folder with a started run, or with another program's files, is not removed."""
    fail(tmp_path / "out", name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([".lock", name])


def test_keeps_the_folder_of_another_producer(tmp_path: Path) -> None:
    """If a producer is refused because another producer has the lock, it removes nothing."""
    out = tmp_path / "out"
    with new_run_folder(out, None), pytest.raises(CommandError, match="Another producer"), new_run_folder(out, None):
        pytest.fail("held twice")
    assert lock.current_holder(out) is None
    assert out.is_dir()


def test_creates_no_lock_in_a_folder_without_a_run(tmp_path: Path) -> None:
    """An unrelated folder is refused before we create a file in it."""
    with pytest.raises(UsageError, match="holds no run"):
        existing_run(tmp_path)
    assert list(tmp_path.iterdir()) == []
