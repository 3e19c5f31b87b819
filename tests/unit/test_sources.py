"""A list is read lazily, line by line, whatever its line ends; what is no text is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import sources
from producer.keeping import ROOT
from tasks.errors import UsageFault
from tasks.model import ImageRequest
from tests.conditions import PATIENCE
from tests.unit.conftest import image

_TEXTS = {
    "plain": (b"http://a\nhttp://b\n", ["http://a", "http://b"]),
    "no last line end": (b"http://a\nhttp://b", ["http://a", "http://b"]),
    "CRLF": (b"http://a\r\nhttp://b\r\n", ["http://a", "http://b"]),
    "byte order mark": (b"\xef\xbb\xbfhttp://a\n", ["http://a"]),
    "byte order mark before a comment": (b"\xef\xbb\xbf# a list\nhttp://a\n", ["http://a"]),
    "blank lines": (b"\n\n http://a\n \t \n\r\nhttp://b\n\n", ["http://a", "http://b"]),
    "comments": (b"# a list\nhttp://a\n  # indented\nhttp://b#c\n", ["http://a", "http://b#c"]),
    "space around": (b"  http://a\t \n", ["http://a"]),
    "not a URL": (b"no URL at all\n", ["no URL at all"]),
    "doubled": (b"http://a\nhttp://a\n", ["http://a", "http://a"]),
    "UTF-8": ("http://ä/ö\n".encode(), ["http://ä/ö"]),
    "not UTF-8": (b"http://\xe4\nhttp://b\n", ["http://\ufffd", "http://b"]),
    "nothing": (b"", []),
    "comments alone": (b"# nothing\n\n", []),
}
_NO_TEXTS = {
    "zero bytes": b"http://a\0\n",
    "UTF-16": "http://a\n".encode("utf-16"),
    "UTF-16 without a mark": "http://a\n".encode("utf-16-be"),
    "JPEG": image("JPEG"),
    "PNG": image("PNG"),
    "Parquet": b"PAR1\x15\x04\x15\n\0\0",
    "zero bytes on the second line": b"http://a\n\0\0\0\0",
}


def read(body: bytes, tmp_path: Path) -> list[ImageRequest]:
    """The requests of a file with these bytes."""
    path = tmp_path / "list.txt"
    path.write_bytes(body)
    return list(sources.read(str(path)))


@pytest.mark.parametrize(("body", "urls"), _TEXTS.values(), ids=_TEXTS)
def test_lines_become_requests(tmp_path: Path, body: bytes, urls: list[str]) -> None:
    """Every line that is neither blank nor a comment is a request, numbered from 0 without gaps."""
    assert read(body, tmp_path) == [ImageRequest(index, url) for index, url in enumerate(urls)]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=20), max_size=20))
def test_each_line_is_one_request(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Whatever stands on a line, it is one request or none, and the lines around it are not touched."""
    whole = [line for text in lines for line in ("http://a", text)]
    requests = read("\n".join(whole).encode(), tmp_path_factory.getbasetemp())
    assert [request.index for request in requests] == list(range(len(requests)))
    assert sum(request.url == "http://a" for request in requests) >= len(lines)
    assert len(requests) <= 2 * len(lines)


@pytest.mark.parametrize("body", _NO_TEXTS.values(), ids=_NO_TEXTS)
def test_what_is_no_text_is_refused(tmp_path: Path, body: bytes) -> None:
    """A binary file, or text in UTF-16, is refused before its first request."""
    with pytest.raises(UsageFault, match="is no text") as caught:
        read(body, tmp_path)
    assert "UTF-8" in caught.value.todo


@pytest.mark.parametrize(
    ("name", "why"), [("missing.txt", "No such file or directory"), (".", "Is a directory"), ("list/x", "Not a dir")]
)
def test_what_can_not_be_read_is_refused(tmp_path: Path, name: str, why: str) -> None:
    """A list that is not there, or is a folder, says so, and what to give instead."""
    (tmp_path / "list").write_bytes(b"")
    with pytest.raises(UsageFault, match=why) as caught:
        list(sources.read(str(tmp_path / name)))
    assert caught.value.exit_code == 2


def test_huge_line_is_cut(tmp_path: Path) -> None:
    """A line of many megabytes is one request, cut, and costs no more memory than its limit."""
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.write(b"http://")
        for _ in range(16):
            file.write(b"a" * (1 << 20))
        file.write(b"\nhttp://b\n")
    tracemalloc.start()
    try:
        requests = list(sources.read(str(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(request.url) for request in requests] == [1 << 20, len("http://b")]
    assert peak < 8 << 20


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    """A list is not even opened until its first request is wanted."""
    assert isinstance(sources.read(str(tmp_path / "missing.txt")), Iterator)


def test_pipe_is_read_as_far_as_asked(tmp_path: Path) -> None:
    """The first requests of a pipe are had while its writer still waits to write the rest."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    more = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(b"http://a\nhttp://b\n")
            more.wait(PATIENCE)
            pipe.write(b"http://c\n")

    writer = threading.Thread(target=write)
    writer.start()
    requests = sources.read(str(path))
    assert [request.url for request in islice(requests, 2)] == ["http://a", "http://b"]
    assert not more.is_set()
    more.set()
    assert [request.url for request in requests] == ["http://c"]
    writer.join()


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dash stands for standard input, which stays open afterwards."""
    (tmp_path / "list").write_text("http://a\n")
    with (tmp_path / "list").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert list(sources.read("-")) == [ImageRequest(0, "http://a")]
        assert os.fstat(stream.fileno())


_WAITING = """
import threading, time
from producer import sources
from producer.keeping import ROOT
threading.Thread(target=lambda: list(sources.read("-")), daemon=True).start()
time.sleep(0.1)
"""


def test_end_while_standard_input_is_open() -> None:
    """A command may end while its planner still waits for a line."""
    with subprocess.Popen([sys.executable, "-c", _WAITING], cwd=ROOT, stdin=subprocess.PIPE) as process:
        # Not by `communicate`, which closes the pipe.
        assert process.wait(30) == 0


def test_list_with_a_url_is_passed_on_lazily() -> None:
    """Only the first request is read before the run begins, and none is lost."""
    read: list[int] = []

    def source() -> Iterator[ImageRequest]:
        for index in range(3):
            read.append(index)
            yield ImageRequest(index, "http://a.example/")

    requests = sources.nonempty(source(), "list.txt")
    assert read == [0]
    assert [request.index for request in requests] == [0, 1, 2]


def test_list_without_a_url_is_refused() -> None:
    """A list with nothing in it is told by its name before anything is started."""
    with pytest.raises(UsageFault, match=r"The list list\.txt has no URL in it"):
        sources.nonempty(iter([]), "list.txt")


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 5])
def test_fingerprint_tells_a_change_at_either_end(tmp_path: Path, size: int) -> None:
    """A list that was changed at its start or end, or has another length, is another; its name counts for nothing."""
    path, copy = tmp_path / "list.txt", tmp_path / "copy.txt"
    body = bytes(size)
    path.write_bytes(body)
    copy.write_bytes(body)
    prints = {sources.fingerprint(str(path)), sources.fingerprint(str(copy))}
    assert len(prints) == 1
    changes = [body + b"a", *([b"a" + body[1:], body[:-1] + b"b", body[:-1]] if size else [])]
    for changed in changes:
        path.write_bytes(changed)
        prints.add(sources.fingerprint(str(path)))
    assert len(prints) == 1 + len(set(changes))
    assert None not in prints


def test_fingerprint_of_what_can_not_be_read_again(tmp_path: Path) -> None:
    """Standard input, pipes, folders and what is not there have none; a pipe is not waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in ("-", str(pipe), str(tmp_path), str(tmp_path / "missing.txt"), "/dev/null"):
        assert sources.fingerprint(source) is None


def test_standard_input_has_a_name() -> None:
    """What is wrong with standard input is told of standard input, and not of a dash."""
    with pytest.raises(UsageFault, match="The list on standard input has no URL in it"):
        sources.nonempty(iter(()), "-")
    assert sources.named("my.txt") == "The list my.txt"
