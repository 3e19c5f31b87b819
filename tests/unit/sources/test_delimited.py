"""In a messy table, each unreadable row is refused, and the refusal gives the line. No other row is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import InputFormat, SourceOptions
from tasks.errors import UsageError
from tasks.model import ImageRequest, Reason

_MESSY = {
    "short row": (b"http://a/1\nhttp://a/2,b\n", ["line 2 has 1 field, the header has 2", "http://a/2"]),
    "long row": (b"http://a/1,b,c\nhttp://a/2,b\n", ["line 2 has 3 fields, the header has 2", "http://a/2"]),
    "blank lines": (b"\n\r\nhttp://a/1,b\n\n", ["http://a/1"]),
    "no last line end": (b"http://a/1,b", ["http://a/1"]),
    "CR": (b"http://a/1,b\rhttp://a/2,c\r", ["http://a/1", "http://a/2"]),
    "no URL": (b" ,b\nhttp://a/2,\n", ["line 2 has no URL", "http://a/2"]),
    "zero byte": (b"http://a/1,\0\n" + b"http://a/2,b\n" * 20, ["line 2 contains a zero byte", *["http://a/2"] * 20]),
    "quotation mark inside": (b'http://a/1,5" screen\nhttp://a/2,b\n', ["http://a/1", "http://a/2"]),
    "unclosed before other quotation marks": (
        b'http://a/1,"b\nhttp://a/2,c\nhttp://a/3,"d"\n',
        ["line 2 has a quotation mark that is never closed", "http://a/2", "http://a/3"],
    ),
    "unclosed until the end": (
        b'http://a/1,"b\nhttp://a/2,c\n',
        ["line 2 has a quotation mark that is never closed", "http://a/2"],
    ),
    "unclosed in the last row": (b'http://a/1,"b', ["line 2 has a quotation mark that is never closed"]),
    "lines after a row of three lines": (b'http://a/1,"b\n\nc"\nhttp://a/2\n', ["http://a/1", "line 5 has 1 field, t"]),
    "not UTF-8": (b"http://\xe4/,b\nhttp://a/2,\xe4\n", ["http://\ufffd/", "http://a/2"]),
    "byte order mark in the middle": (b"http://a/1,b\n\xef\xbb\xbfhttp://a/2,c\n", ["http://a/1", "http://a/2"]),
}


def read(path: Path, body: bytes, options: SourceOptions | None = None) -> list[ImageRequest]:
    """Return the requests of a file with these bytes."""
    path.write_bytes(body)
    return list(url_list.read(str(path), options or SourceOptions()))


@pytest.mark.parametrize(("body", "expected"), _MESSY.values(), ids=_MESSY)
def test_bad_rows_are_refused_with_their_lines(tmp_path: Path, body: bytes, expected: list[str]) -> None:
    """A bad row is one request with the reason invalid_row, and the rows after it are read."""
    requests = read(tmp_path / "list.csv", b"url,caption\n" + body)
    assert [request.index for request in requests] == list(range(len(expected)))
    for request, text in zip(requests, expected, strict=True):
        if request.refused is None:
            assert request.url == text
        else:
            assert (request.url, request.refused.reason) == ("", Reason.INVALID_ROW)
            assert request.refused.message.startswith(text)


def test_a_huge_field_is_refused(tmp_path: Path) -> None:
    """A field of more than a MiB makes only its own row invalid, with or without quotation marks."""
    huge = b"x" * (1 << 20)
    body = b"url,caption\nhttp://a/1," + huge + b'\nhttp://a/2,"' + huge + b'"\nhttp://a/3,b\n'
    requests = read(tmp_path / "list.csv", body)
    assert [request.url for request in requests] == ["", "", "http://a/3"]
    assert "is longer than 1,048,576 characters" in str(requests[0].refused)


@pytest.mark.parametrize(("line", "count"), [("\n", 1000), ("x" * 60_000 + '","\n', 20)])
def test_a_row_of_too_many_lines_is_refused(tmp_path: Path, line: str, count: int) -> None:
    """A row with more lines or characters than the limits is refused, and reading continues on its second line."""
    body = 'url,caption\nhttp://a/1,"' + "b\n" * 9 + '"\nhttp://a/2,"' + line * count + '"\n'
    requests = read(tmp_path / "list.csv", body.encode())
    assert requests[0].url == "http://a/1"
    assert "line 12 has a quotation mark that is not closed within 1,000 lines" in str(requests[1].refused)


def test_quotation_marks_in_tsv_may_be_plain_text(tmp_path: Path) -> None:
    """A caption in a TSV file may begin with a quotation mark that is never closed."""
    requests = read(
        tmp_path / "list.tsv", b'text\turl\n"b\thttp://a/1\nc\thttp://a/2\n', SourceOptions(caption_col="text")
    )
    assert [(request.url, request.columns["caption"]) for request in requests] == [
        ("http://a/1", '"b'),
        ("http://a/2", "c"),
    ]


@pytest.mark.parametrize("header", [True, False])
def test_plain_quotation_marks_in_tsv_join_no_rows(tmp_path: Path, header: bool) -> None:
    """If a caption begins with a quotation mark and a later one ends with one, the rows between them are kept."""
    body = b'"a man\thttp://a/1\r\n\r\nfoo\thttp://a/2\r\nthe end"\thttp://a/3\r\n"two\nlines"\thttp://a/4\n'
    options = SourceOptions(header=header, caption_col="text" if header else "1")
    requests = read(tmp_path / "list.tsv", (b"text\turl\n" if header else b"") + body, options)
    assert [(request.url, request.columns["caption"]) for request in requests] == [
        ("http://a/1", '"a man'),
        ("http://a/2", "foo"),
        ("http://a/3", 'the end"'),
        ("http://a/4", "two\nlines"),
    ]


def test_columns_by_number(tmp_path: Path) -> None:
    """Without a header, columns are given by number. The column with the URLs is found automatically."""
    for options in (
        SourceOptions(header=False, url_col="2", caption_col="1"),
        SourceOptions(header=False, caption_col="1"),
    ):
        requests = read(tmp_path / "cc3m.tsv", b"a bus\thttp://a/1\na mountain\thttp://a/2\nbad\n", options)
        assert [request.url for request in requests] == ["http://a/1", "http://a/2", ""]
        assert requests[1].columns == {"caption": "a mountain"}
        assert "line 3 has 1 field, the first row has 2" in str(requests[2].refused)


def test_encodings(tmp_path: Path) -> None:
    """Latin-1, and UTF-16 without a byte order mark, are read if the encoding is named."""
    for encoding in ("latin-1", "utf-16-le", "cp1252"):
        body = "url,caption\nhttp://a/,\u00e4\n".encode(encoding)
        (request,) = read(tmp_path / "list.csv", body, SourceOptions(caption_col="caption", encoding=encoding))
        assert request.columns == {"caption": "\u00e4"}


_UNCLEAR = {
    "no usual name": (b"id,text\n1,http://a/\n", "with the columns id, text", "--url-col COLUMN"),
    "two columns": (b"url,image_url\nhttp://a/,http://b/\n", "the URLs may be in url or image_url", "--url-col url"),
    "no header": (b"b,http://a/\nc,http://b/\n", "its first row has a URL", "--no-header --url-col 2"),
    "URLs or a table": (b"http://a/1,2\nhttp://b/1,3\n", "its first row has a URL", "add `--input-format text`"),
    "URLs first": (b"http://a/1,2\nhttp://b/1,3\n", "its first row has a URL", "--no-header --url-col 1"),
}


@pytest.mark.parametrize(("body", "why", "hint"), _UNCLEAR.values(), ids=_UNCLEAR)
def test_asks_for_the_column_with_the_urls(tmp_path: Path, body: bytes, why: str, hint: str) -> None:
    """If it is unclear which column has the URLs, the message lists the columns and names the option."""
    with pytest.raises(UsageError, match="does not say which of its columns has the URLs") as caught:
        read(tmp_path / "list.csv", body)
    assert caught.value.exit_code == 2
    assert why in caught.value.why
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_a_table_of_urls_alone_is_a_text(tmp_path: Path, name: str) -> None:
    """A file named like a table is read as text if its rows are URLs without a header."""
    urls = [f"https://res.example/demo/w_0,h_300/{'x' * 300}{index}.jpg" for index in range(2000)]
    requests = read(tmp_path / name, "\n".join(urls).encode())
    assert [request.url for request in requests] == urls
    requests = read(tmp_path / name, "\n".join(urls).encode(), SourceOptions(header=False))
    assert [request.url for request in requests] == urls


_URL = "https://a.example/w_0,h_300,c_1/a.jpg"
_DELIMITERS = {
    "after the folders": (f"{_URL};a dog", 1),
    "before a URL": (f"cat|{_URL}", 2),
    "between URLs": (f"{_URL};{_URL}", 1),
    "in the query": ("https://a.example/1?x=1,a dog", 1),
    "in quotation marks": ('"a;b;c",https://a.example/1?x=1', 2),
    "no folder": ("https://a.example,https://b.example", 1),
}


@pytest.mark.parametrize(("row", "column"), _DELIMITERS.values(), ids=_DELIMITERS)
def test_delimiters_in_folders_of_urls_do_not_count(tmp_path: Path, row: str, column: int) -> None:
    """Without a header, the delimiter is found outside the folders of the URLs in the first row."""
    options = SourceOptions(header=False, url_col=str(column))
    (request,) = read(tmp_path / "list.csv", row.encode(), options)
    assert request.url in (_URL, "https://a.example/1?x=1", "https://a.example")


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (SourceOptions(url_col="no"), "--url-col"),
        (SourceOptions(caption_col="no"), "--caption-col"),
        (SourceOptions(columns=("text", "no")), "--columns"),
    ],
)
def test_unknown_column_is_an_error(tmp_path: Path, options: SourceOptions, option: str) -> None:
    """The message for an unknown column lists the existing ones."""
    with pytest.raises(UsageError, match="has no column no") as caught:
        read(tmp_path / "list.csv", b"url,text\nhttp://a/,b\n", options)
    assert "with the columns url, text" in caught.value.why
    assert option in caught.value.hint


@pytest.mark.parametrize("name", ["URL", "Image URL", "image_url", "img-url", "link", "src", "photo_url", "image_link"])
def test_finds_the_column_with_the_urls(tmp_path: Path, name: str) -> None:
    """If a column has a usual name for URLs, that column is used. Upper and lower case make no difference."""
    requests = read(tmp_path / "list.csv", f"id,{name},page\n1,http://a/,2\n".encode())
    assert [request.url for request in requests] == ["http://a/"]


def test_header_alone_has_no_urls(tmp_path: Path) -> None:
    """A table without rows, and an empty file, are refused before anything starts."""
    for body in (b"url,caption\n", b""):
        path = tmp_path / "list.csv"
        path.write_bytes(body)
        with pytest.raises(UsageError):
            url_list.require_urls(url_list.read(str(path)), str(path))


def test_explicit_format_wins_over_the_name(tmp_path: Path) -> None:
    """With `--input-format`, a table is read even if its name does not show its format."""
    body = b"url\tcaption\nhttp://a/1\tb, c\nhttp://a/2\td\n"
    requests = read(tmp_path / "list", body, SourceOptions(InputFormat.TSV))
    assert [request.url for request in requests] == ["http://a/1", "http://a/2"]
