"""An output folder is made, tried, and refused where it holds a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.output import output
from producer.runfile import Options, RunFile
from tasks.errors import UsageFault
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
