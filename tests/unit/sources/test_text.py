"""A list is read lazily, line by line, with any line ends and encoding. Other formats are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.local_fleet.supervisor_client import ROOT
from producer.sources import text, url_list
from tasks.download.urls import parse
from tasks.errors import InvalidUrlError, UsageError
from tasks.model import ImageRequest
from tests.unit.conftest import image
from tests.waiting import PATIENCE

_TEXTS = {
    "plain": (b"http://a\nhttp://b\n", ["http://a", "http://b"]),
    "no last line end": (b"http://a\nhttp://b", ["http://a", "http://b"]),
    "CRLF": (b"http://a\r\nhttp://b\r\n", ["http://a", "http://b"]),
    "byte order mark": (b"\xef\xbb\xbfhttp://a\n", ["http://a"]),
    "byte order mark before a comment": (b"\xef\xbb\xbf# a list\nhttp://a\n", ["http://a"]),
    "blank lines": (b"\n\n http://a\n \t \n\r\nhttp://b\n\n", ["http://a", "http://b"]),
    "comments": (b"# a list\nhttp://a\n  # indented\nhttp://b#c\n", ["http://a", "http://b#c"]),
    "space around": (b"  http://a\t \n", ["http://a"]),
    "not a URL": (b"not a URL\n", ["not a URL"]),
    "doubled": (b"http://a\nhttp://a\n", ["http://a", "http://a"]),
    "UTF-8": ("http://ä/ö\n".encode(), ["http://ä/ö"]),
    "not UTF-8": (b"http://\xe4\nhttp://b\n", ["http://\ufffd", "http://b"]),
    "CR": (b"http://a\rhttp://b\r", ["http://a", "http://b"]),
    "all three line ends": (b"http://a\rhttp://b\r\nhttp://c\n\rhttp://d", [f"http://{name}" for name in "abcd"]),
    "joined files with marks": (b"\xef\xbb\xbfhttp://a\n\xef\xbb\xbfhttp://b\n", ["http://a", "http://b"]),
    "joined files without a last line end": (b"\xef\xbb\xbfhttp://a\xef\xbb\xbfhttp://b", ["http://a", "http://b"]),
    "two marks at the start": (b"\xef\xbb\xbf\xef\xbb\xbfhttp://a\n", ["http://a"]),
    "comment in a joined file": (b"http://a\n\xef\xbb\xbf# more\nhttp://b\n", ["http://a", "http://b"]),
    "UTF-16, little endian": ("\ufeffhttp://ä\r\nhttp://b\r\n".encode("utf-16-le"), ["http://ä", "http://b"]),
    "UTF-16, big endian": ("\ufeffhttp://ä\nhttp://b".encode("utf-16-be"), ["http://ä", "http://b"]),
    "UTF-16 with CR": ("\ufeffhttp://a\rhttp://b\r".encode("utf-16-le"), ["http://a", "http://b"]),
    "UTF-16 with a character of two units": (
        "\ufeffhttp://a/\U0001f600\n".encode("utf-16-le"),
        ["http://a/\U0001f600"],
    ),
    "joined files in UTF-16": (
        ("\ufeffhttp://a\n".encode("utf-16-le") + "\ufeffhttp://b\n".encode("utf-16-le")),
        ["http://a", "http://b"],
    ),
    "truncated UTF-16": ("\ufeffhttp://a\n".encode("utf-16-le") + b"h", ["http://a", "\ufffd"]),
    "UTF-32, little endian": ("\ufeffhttp://ä\nhttp://b\n".encode("utf-32-le"), ["http://ä", "http://b"]),
    "UTF-32, big endian": ("\ufeffhttp://ä\r\nhttp://b".encode("utf-32-be"), ["http://ä", "http://b"]),
    "quotation marks": (b"\"http://a\"\n'http://b'\n<http://c>\n`http://d`\n", [f"http://{name}" for name in "abcd"]),
    "typographic quotation marks": ("\u201chttp://a\u201d\n\u2018http://b\u2019\n".encode(), ["http://a", "http://b"]),
    "trailing commas and semicolons": (b"http://a,\nhttp://b;\nhttp://c , \n", ["http://a", "http://b", "http://c"]),
    "rows of source code": (b"\"http://a\",\n'http://b';\n<http://c>,\n", ["http://a", "http://b", "http://c"]),
    "space within quotation marks": (b'" http://a "\n', ["http://a"]),
    "comma within quotation marks": (b'"http://a,"\n', ["http://a,"]),
    "one comma removed": (b"http://a,,\n", ["http://a,"]),
    "unmatched marks": (b"\"http://a'\n<http://b\nhttp://c'\n", ["\"http://a'", "<http://b", "http://c'"]),
    "marks alone": (b'http://a\n,\n""\n"\n', ["http://a", ",", '""', '"']),
    "marks inside": (b"http://a/b,c;d'e\"f<g>h\n", ["http://a/b,c;d'e\"f<g>h"]),
    "nothing": (b"", []),
    "comments alone": (b"# nothing\n\n", []),
}
_NO_TEXTS = {
    "zero bytes": b"http://a\0\n",
    "UTF-16 without a mark": "http://a\n".encode("utf-16-be"),
    "JPEG": image("JPEG"),
    "PNG": image("PNG"),
    "zero bytes on the second line": b"http://a\n\0\0\0\0",
}
_OTHER_FORMATS = {
    "zip": (b"PK\x03\x04\x14\0\0\0", "a zip archive", "text file"),
    "Parquet": (b"PAR1\x15\x04\x15\n\0\0", "a Parquet file", "--input-format parquet"),
    "Arrow": (b"ARROW1\0\0", "an Arrow file", "text file"),
    "ORC": (b"ORC\n\x0b\x08", "an ORC file", "text file"),
    "Avro": (b"Obj\x01\x04", "an Avro file", "text file"),
    "SQLite": (b"SQLite format 3\0", "an SQLite database", "text file"),
    "PDF": (b"%PDF-1.7\n", "a PDF document", "text file"),
    "JSON array": (b'["http://a/1.jpg",\n "http://a/2.jpg"]\n', "a JSON array", "--input-format json"),
    "JSON array, indented": (b'[\n  "http://a/1.jpg",\n  "http://a/2.jpg"\n]\n', "a JSON array", "--input-format json"),
    "JSON array of objects": (b'[{"url": "http://a/1.jpg"}]', "a JSON array", "--input-format json"),
    "JSON object": (b'{\n  "urls": ["http://a/1.jpg"]\n}\n', "a single JSON object", "jq command"),
    "JSON Lines": (
        b'{"url": "http://a/1.jpg", "caption": "x"}\n{"url": "http://a/2.jpg"}\n',
        "JSON Lines",
        "--input-format jsonl",
    ),
    "HTML": (b"<!DOCTYPE html>\n<img src='http://a/1.jpg'>\n", "HTML or XML", "text file"),
    "links": (b'<a href="http://a/1.jpg">\n<a href="http://a/2.jpg">\n', "HTML or XML", "text file"),
    "sitemap": (b"<?xml version='1.0'?>\n<urlset>\n<loc>http://a/1.jpg</loc>\n", "HTML or XML", "text file"),
    "CSV": (b'url,caption\nhttp://a/1.jpg,"A cat, sitting"\nhttp://a/2.jpg,dog\n', "a table", "--input-format csv"),
    "CSV whose header says it": (b"id;Image URL;text\n1;/1.jpg;a\n", "a table", "--input-format csv"),
    "CSV in capitals": (b'"URL","TEXT"\nhttp://a/image?id=1,dog\n', "a table", "--input-format csv"),
    "CSV without a header": (b"http://a/1.jpg,dog\nhttp://a/2.png,cat\n", "a table", "--input-format csv"),
    "CSV in quotation marks": (b'"http://a/1","dog"\n"http://a/2","cat"\n', "a table", "--input-format csv"),
    "CSV with one quoted column": (b'http://a/1,"dog"\nhttp://a/2,"cat"\n', "a table", "--input-format csv"),
    "CSV with the URL at its end": (b"1,http://a/1.jpg\n2,http://a/2.jpg\n", "a table", "--input-format csv"),
    "semicolons": (b"dog;http://a/1.jpg\ncat;http://a/2.jpg\n", "a table", "--input-format csv"),
    "CSV in UTF-16": ("\ufeffid,url\r\n1,http://a/1.jpg\r\n".encode("utf-16-le"), "a table", "--input-format csv"),
    "TSV": (b"a bus station\thttp://a/1.jpg\na sierra\thttp://a/2.jpg\n", "with tabs", "--input-format tsv"),
    "TSV with the URL first": (b"http://a/1\ta bus station\nhttp://a/2\ta sierra\n", "with tabs", "--input-format tsv"),
    "ids before the URLs": (
        b"n01440764_18 http://a/1\nn01440764_19 http://a/2\n",
        "with spaces",
        "--input-format words",
    ),
    "captions after the URLs": (
        b"http://a/1.jpg a bus\nhttp://a/2.jpg a sierra\n",
        "with spaces",
        "--input-format words",
    ),
    "aria2": (
        b"http://a/1\n  out=1.jpg\nhttp://a/2\n  dir=/tmp\n  out=2.jpg\n",
        "aria2",
        "--input-format aria2",
    ),
    "aria2 with mirrors": (b"http://a/1\thttp://b/1\n  out=one.jpg\n", "with tabs", "--input-format tsv"),
}
#: Each table gets nine more rows, because a table of one row counts as a list with a bad row.
_LISTS = {
    "commas of an image service": b"https://res.example/demo/image/upload/w_400,h_400,c_crop,g_face/w_200/lady.jpg",
    "commas after an extension": b"https://static.example/media/x.jpg/v1/fill/w_980,h_653,al_c,q_85/x.jpg",
    "commas of IIIF": b"https://iiif.example/iiif/2/abc.jpg/full/200,/0/default.jpg",
    "commas in a query": b"https://a.example/x.jpg?rect=0,0,100,100&x-oss-process=image/resize,m_fill,h_100,w_100",
    "settings after an extension": b"https://a.example/x.jpg,width=300,quality=80",
    "URL within a URL": b"https://a.example/w_100,h_100/https://b.example/x.jpg",
    "URL after a comma": b"https://a.example/w_100,https://b.example/x.jpg",
    "semicolon of a session": b"https://a.example/x.jpg;jsessionid=1234?a=1;b=2",
    "pipes": b"https://a.example/css?family=A|B|C",
    "spaces": b"https://a.example/my holiday, part 1.jpg",
    "quotes inside": b'https://a.example/o\'brien "x".jpg',
    "tab at its end": b"https://a.example/x.jpg\t",
    "trailing comma": b"https://a.example/x.jpg,",
    "equals sign": b"https://a.example/out=/dir=/x.jpg",
    "another scheme": b"ftp://a.example/x.jpg",
    "no second slash": b"http:/a.example/x.jpg",
}


def read(body: bytes, tmp_path: Path) -> list[ImageRequest]:
    """Return the requests of a file with these bytes."""
    path = tmp_path / "list.txt"
    path.write_bytes(body)
    return list(url_list.read(str(path)))


def test_one_zero_byte_does_not_make_a_binary_file(tmp_path: Path) -> None:
    """One bad row is not enough for a list to count as a binary file."""
    body = b"".join(b"http://a/%d\n" % index for index in range(20))
    assert [request.url for request in read(body + b"http://a/\0\n", tmp_path)][19:] == ["http://a/19", "http://a/\0"]


@pytest.mark.parametrize(("body", "urls"), _TEXTS.values(), ids=_TEXTS)
def test_lines_become_requests(tmp_path: Path, body: bytes, urls: list[str]) -> None:
    """Every line except blank lines and comments is a request, numbered from 0 without gaps."""
    assert read(body, tmp_path) == [ImageRequest(index, url) for index, url in enumerate(urls)]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff"), max_size=20), max_size=20))
def test_each_line_is_one_request(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Any line is at most one request. A line does not affect the lines around it."""
    every_line = [line for text in lines for line in ("http://a", text)]
    requests = read("\n".join(every_line).encode(), tmp_path_factory.getbasetemp())
    assert [request.index for request in requests] == list(range(len(requests)))
    assert sum(request.url == "http://a" for request in requests) >= len(lines)
    assert len(requests) <= 2 * len(lines)


@pytest.mark.parametrize("body", _NO_TEXTS.values(), ids=_NO_TEXTS)
def test_refuses_a_binary_file(tmp_path: Path, body: bytes) -> None:
    """A binary file, or UTF-16 without a byte order mark, is refused before its first request."""
    with pytest.raises(UsageError, match="is not a text file") as caught:
        read(body, tmp_path)
    assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize(("body", "name", "todo"), _OTHER_FORMATS.values(), ids=_OTHER_FORMATS)
def test_refuses_another_format(tmp_path: Path, body: bytes, name: str, todo: str) -> None:
    """A list in another format is refused before its first request. The message says how to read the list."""
    with pytest.raises(UsageError, match=f"looks like .*{name}") as caught:
        read(body, tmp_path)
    assert todo in caught.value.hint


@pytest.mark.parametrize("row", _LISTS.values(), ids=_LISTS)
def test_accepts_unusual_urls(tmp_path: Path, row: bytes) -> None:
    """URLs may contain commas, spaces and other URLs. A list of these URLs is not mistaken for a table."""
    requests = read((row + b"\n") * 10, tmp_path)
    assert [request.url for request in requests] == [row.decode().strip().removesuffix(",")] * 10
    assert len(list(url_list.require_urls(iter(requests), "list.txt"))) == 10


@pytest.mark.parametrize(
    "row",
    [b"1\thttp://a.example/1.jpg", b'{"url": "http://a.example/1.jpg"}', b"url,caption", b"out=one.jpg", b"<html>"],
)
def test_one_bad_row_is_not_a_table(tmp_path: Path, row: bytes) -> None:
    """A list is read even if a row in its middle has another format. A row of another format gets its own Outcome."""
    requests = read(b"http://a.example/1.jpg\n" * 3 + row + b"\n" + b"http://a.example/2.jpg\n" * 3, tmp_path)
    assert requests[3].url == row.decode()
    assert len(requests) == 7


def test_header_of_one_column_is_a_bad_row(tmp_path: Path) -> None:
    """A single column of URLs under a header is a list with a bad first row."""
    assert [request.url for request in read(b"url\nhttp://a.example/1.jpg\n", tmp_path)] == [
        "url",
        "http://a.example/1.jpg",
    ]


def test_format_is_recognised_on_standard_input(tmp_path: Path) -> None:
    """A piped table is recognised by its first bytes, and refused too."""
    command = [sys.executable, "-c", "from producer.sources import url_list as sources; list(sources.read('-'))"]
    ended = subprocess.run(command, input=b"a\thttp://a/1\nb\thttp://a/2\n", cwd=ROOT, capture_output=True, check=False)
    assert b"The list on standard input looks like a table with tabs" in ended.stderr


def test_standard_input_in_utf_16(tmp_path: Path) -> None:
    """Like a file, standard input is read in the encoding of its byte order mark, and with any line ends."""
    script = "from producer.sources import url_list as sources; print([request.url for request in sources.read('-')])"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        input="\ufeffhttp://a\rhttp://b\r\n<http://c>".encode("utf-16-le"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert ended.stdout == b"['http://a', 'http://b', 'http://c']\n"


@pytest.mark.parametrize(("name", "why"), [("missing.txt", "No such file or directory"), ("list/x", "Not a dir")])
def test_refuses_an_unreadable_list(tmp_path: Path, name: str, why: str) -> None:
    """For a missing list, the error gives the reason and a remedy."""
    (tmp_path / "list").write_bytes(b"")
    with pytest.raises(UsageError, match=why) as caught:
        list(url_list.read(str(tmp_path / name)))
    assert caught.value.exit_code == 2


def test_truncates_a_huge_line(tmp_path: Path) -> None:
    """A line of many megabytes is one truncated request, and uses no more memory than a line's limit."""
    path = tmp_path / "list.txt"
    with path.open("wb") as file:
        file.write(b"http://")
        for _ in range(16):
            file.write(b"a" * (1 << 20))
        file.write(b"\nhttp://b\n")
    tracemalloc.start()
    try:
        requests = list(url_list.read(str(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(request.url) for request in requests] == [1 << 20, len("http://b")]
    assert peak < 8 << 20


def test_reads_nothing_before_the_first_request(tmp_path: Path) -> None:
    """A list is not opened before its first request is needed."""
    requests = url_list.read(str(tmp_path / "missing.txt"))
    with pytest.raises(UsageError):
        iter(requests)


def test_reads_a_pipe_only_as_far_as_needed(tmp_path: Path) -> None:
    """The first requests of a pipe are available before the pipe's writer has written the last rows."""
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
    requests = url_list.read(str(path))
    assert [request.url for request in islice(requests, 2)] == ["http://a", "http://b"]
    assert not more.is_set()
    more.set()
    assert [request.url for request in requests] == ["http://c"]
    writer.join()


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dash means standard input, which stays open afterwards."""
    (tmp_path / "list").write_text("http://a\n")
    with (tmp_path / "list").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert list(url_list.read("-")) == [ImageRequest(0, "http://a")]
        assert os.fstat(stream.fileno())


_WAITING = """
import threading, time
from producer.sources import url_list as sources
from producer.local_fleet.supervisor_client import ROOT
threading.Thread(target=lambda: list(sources.read("-")), daemon=True).start()
time.sleep(0.1)
"""


def test_command_ends_while_standard_input_is_open() -> None:
    """A command may end while its planner still waits for a line."""
    with subprocess.Popen([sys.executable, "-c", _WAITING], cwd=ROOT, stdin=subprocess.PIPE) as process:
        # The test does not use `communicate`, because that would close the pipe.
        assert process.wait(30) == 0


def test_reads_one_row_before_the_run_starts() -> None:
    """Only the first request is read before the run starts, and no request is lost."""
    read: list[int] = []

    def source() -> Iterator[ImageRequest]:
        for index in range(3):
            read.append(index)
            yield ImageRequest(index, "http://a.example/")

    requests = url_list.require_urls(source(), "list.txt")
    assert read == [0]
    assert [request.index for request in requests] == [0, 1, 2]


def test_refuses_an_empty_list() -> None:
    """An empty list is refused before anything is started, and the error names the list."""
    with pytest.raises(UsageError, match=r"The list list\.txt contains no URLs"):
        url_list.require_urls(iter([]), "list.txt")


def test_refuses_a_list_without_urls_in_its_first_rows() -> None:
    """A text is refused if its first thousand rows have no URL. The message shows the first row, redacted."""
    read: list[int] = []

    def source() -> Iterator[ImageRequest]:
        for index in range(5000):
            read.append(index)
            yield ImageRequest(index, "images/1.jpg?token=secret" + "x" * 100)

    with pytest.raises(
        UsageError, match=r"none of its first 1,000 rows is a URL; row 1 is 'images/1\.jpg\?token=\*\*\*'"
    ):
        url_list.require_urls(source(), "list.txt")
    assert len(read) == 1000


def test_accepts_a_list_with_bad_first_rows() -> None:
    """A list may begin with rows without URLs. Rows without URLs are passed on unchanged."""
    urls = ["a title", "", "http://a.example/1.jpg", "more"]
    requests = [ImageRequest(index, url) for index, url in enumerate(urls)]
    assert list(url_list.require_urls(iter(requests), "list.txt")) == requests


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 5])
def test_fingerprint_detects_a_change_at_either_end(tmp_path: Path, size: int) -> None:
    """The fingerprint changes with a list's start, end or length, and not with its name."""
    path, copy = tmp_path / "list.txt", tmp_path / "copy.txt"
    body = bytes(size)
    path.write_bytes(body)
    copy.write_bytes(body)
    prints = {url_list.fingerprint(str(path)), url_list.fingerprint(str(copy))}
    assert len(prints) == 1
    changes = [body + b"a", *([b"a" + body[1:], body[:-1] + b"b", body[:-1]] if size else [])]
    for changed in changes:
        path.write_bytes(changed)
        prints.add(url_list.fingerprint(str(path)))
    assert len(prints) == 1 + len(set(changes))
    assert None not in prints


def test_fingerprint_of_unrepeatable_sources(tmp_path: Path) -> None:
    """Standard input, pipes, folders and missing files have no fingerprint. No time is spent waiting for a pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in ("-", str(pipe), str(tmp_path), str(tmp_path / "missing.txt"), "/dev/null"):
        assert url_list.fingerprint(source) is None


def test_names_standard_input_in_messages() -> None:
    """Messages say "standard input", and not a dash."""
    with pytest.raises(UsageError, match="The list on standard input contains no URLs"):
        url_list.require_urls(iter(()), "-")
    assert url_list.display_name("my.txt") == "The list my.txt"


_PIECES = st.sampled_from(
    [
        *"ab/?#&=,;|.'\"<>`\u201c\u201d\u3000\u00a0\ufeff\x00\x1b\x7f\x85",
        " ",
        "\t",
        "\n",
        "\r",
        ".jpg",
        ".jpg,",
        "http://b/",
    ]
)


@given(st.lists(st.builds("http://a.example/{}".format, st.lists(_PIECES, max_size=12).map("".join)), min_size=1))
def test_reads_written_lines_again(urls: list[str]) -> None:
    """A list of written lines gives equal URLs when it is read again, whatever characters the URLs contain."""
    lines = [text.format_line(url) for url in urls]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "list"
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="")
        assert [parse(request.url) for request in url_list.read(str(path))] == [parse(url) for url in urls]


@pytest.mark.parametrize("url", ["", "# a comment", "not a url", "ftp://a/b", "http://"])
def test_writes_no_line_for_an_invalid_url(url: str) -> None:
    """A text that can't be downloaded gets no line."""
    with pytest.raises(InvalidUrlError):
        parse(url)
    assert text.format_line(url) is None


def test_writes_usual_urls_unchanged() -> None:
    """A usual URL is a line as it is. Only a URL that would be misread is put in brackets."""
    for url in ("http://a/b.jpg", "http://a/w_20,h_30/b?c=d;e|f", "http://a/\u00e4 b"):
        assert text.format_line(url) == url
    assert text.format_line("http://a/b,") == "<http://a/b,>"
    assert text.format_line("http://a/b.jpg,c") == "<http://a/b.jpg,c>"
