"""Image files stay in the output folder.

Every system can write the names of image files. No name hides a file of the run.
"""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.storage.file_names import MAX_NAME_BYTES, MAX_PART_BYTES, check_name


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b/c",
        "full/0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33",
        "image-0",
        "日本/é",
        "a b",
        "00000007",
        "x" * MAX_PART_BYTES,
    ],
)
def test_valid_name_is_returned(name: str) -> None:
    """A valid name is returned unchanged."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "slash, or a part of it is empty"),
        ("/etc/passwd", "slash"),
        ("a/", "slash"),
        ("a//b", "slash"),
        ("../a", r"\.\."),
        ("a/../../b", r"\.\."),
        ("a/./b", r"\.\."),
        ("a\\b", "character"),
        ("c:a", "character"),
        ("a\0b", "character"),
        ("a\nb", "character"),
        ("a?b", "character"),
        ("\udcff", "character"),
        ("a ", "space"),
        ("a./b", "dot"),
        ("Run", "file of the run"),
        ("00001_stats", "file of the run"),
        (" a", "space"),
        ("con", "Windows"),
        ("a/NUL.txt", "Windows"),
        ("com1", "Windows"),
        ("x" * (MAX_PART_BYTES + 1), f"longer than {MAX_PART_BYTES} bytes"),
        ("/".join(["x" * 100] * 20), "longer than 1,024 bytes"),
        ("run.json", "file or folder of the run"),
        ("RUN.JSON", "file or folder of the run"),
        (".plan/00000", "hidden"),
        (".tmp/a", "hidden"),
        ("00000/a", "folder of the run"),
        ("00000.parquet", "folder of the run"),
    ],
)
def test_invalid_name_is_refused(name: str, why: str) -> None:
    """The message says what is wrong with the name."""
    with pytest.raises(ValueError, match=why):
        check_name(name)


@given(st.text(st.sampled_from("aA.:/\\ ~\0-é\U0001f600n\u202e"), max_size=12) | st.text(max_size=12))
def test_no_valid_name_leaves_the_folder(name: str) -> None:
    """A valid name does not lead out of the folder on any system."""
    try:
        check_name(name)
    except ValueError:
        return
    windows = PureWindowsPath(name)
    assert not windows.drive
    assert not windows.root
    assert not PurePosixPath(name).is_absolute()
    assert not {"..", ".", ""} & {*windows.parts, *name.split("/")}
    assert 0 < len(name.encode()) <= MAX_NAME_BYTES
