"""With --input-format, lines of words and input files of aria2 are read.

Without the option, such lists are recognized and refused.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from producer.sources import url_list
from producer.sources.options import InputFormat, SourceOptions
from tasks.errors import UsageError
from tasks.model import ImageRequest

_IMAGENET = b"# ids\nn01440764_18 http://a/1\n\nn01440764_19\thttp://a/2 a fish\nn01440764_20\n"
_ARIA2 = b"""\
http://a/1
  out=one.jpg
# a comment
http://a/2\thttp://mirror/2
\tdir=/tmp
  out=two.jpg

http://a/3
"""


def read(path: Path, body: bytes, options: SourceOptions) -> list[ImageRequest]:
    """Return the requests of a file with these bytes."""
    path.write_bytes(body)
    return list(url_list.read(str(path), options))


def test_words(tmp_path: Path) -> None:
    """The URL is found among the words. The words before the URL, and the text after it, are columns."""
    options = SourceOptions(InputFormat.WORDS, caption_col="3", columns=("1",))
    requests = read(tmp_path / "imagenet.txt", _IMAGENET, options)
    assert [request.url for request in requests] == ["http://a/1", "http://a/2", ""]
    assert requests[0].columns == {"caption": None, "1": "n01440764_18"}
    assert requests[1].columns == {"caption": "a fish", "1": "n01440764_19"}
    assert "line 5 has 1 word, and the URL should be word 2" in str(requests[2].refused)


def test_words_after_the_url(tmp_path: Path) -> None:
    """A caption of any number of words may follow the URL."""
    options = SourceOptions(InputFormat.WORDS, caption_col="2")
    requests = read(tmp_path / "list.txt", b"http://a/1.jpg a red bus\nhttp://a/2.jpg\n", options)
    assert [request.columns["caption"] for request in requests] == ["a red bus", None]


def test_few_long_lines_decide_which_word_is_the_url(tmp_path: Path) -> None:
    """Lines after the first 16 Mi characters are not kept to decide which word is the URL."""
    body = (b"1 http://a/ " + b"x" * (900 << 10) + b"\n") * 20 + b"http://b/ 2\n" * 100
    requests = read(tmp_path / "list.txt", body, SourceOptions(InputFormat.WORDS))
    assert [request.url for request in requests[:20]] == ["http://a/"] * 20


def test_aria2(tmp_path: Path) -> None:
    """Each row is a line of URLs. The first URL is used. Its options are columns."""
    requests = read(tmp_path / "list.txt", _ARIA2, SourceOptions(InputFormat.ARIA2, columns=("out", "dir")))
    assert [request.url for request in requests] == ["http://a/1", "http://a/2", "http://a/3"]
    assert [request.columns["out"] for request in requests] == ["one.jpg", "two.jpg", None]
    assert [request.columns["dir"] for request in requests] == [None, "/tmp", None]


def test_aria2_ignores_any_number_of_other_options(tmp_path: Path) -> None:
    """Other options of a URL take no memory, however many there are."""
    path = tmp_path / "list.txt"
    path.write_text("http://a/1\n" + "".join(f"  option-{number}={'x' * 100}\n" for number in range(20_000)))
    tracemalloc.start()
    try:
        (request,) = url_list.read(str(path), SourceOptions(InputFormat.ARIA2))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert request.url == "http://a/1"
    assert peak < 2_000_000


def test_aria2_names_the_files(tmp_path: Path) -> None:
    """With `--path-col out`, images get the names that aria2 would give them. A row without `out` has no name."""
    requests = read(tmp_path / "list.txt", _ARIA2, SourceOptions(InputFormat.ARIA2, path_col="out"))
    assert [request.path for request in requests] == ["one.jpg", "two.jpg", None]


@pytest.mark.parametrize(("body", "name"), [(_IMAGENET, "words"), (_ARIA2, "aria2")])
def test_message_names_the_option(tmp_path: Path, body: bytes, name: str) -> None:
    """Without the option, the list is refused, and the message names the option."""
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "list.txt", body, SourceOptions())
    assert caught.value.hint == f"Add `--input-format {name}`."


def test_words_without_a_url(tmp_path: Path) -> None:
    """Lines of words without a URL are refused before anything starts."""
    path = tmp_path / "list.txt"
    path.write_text("one two\nthree\n")
    with pytest.raises(UsageError, match="contains no URLs"):
        url_list.require_urls(url_list.read(str(path), SourceOptions(InputFormat.WORDS)), str(path))
