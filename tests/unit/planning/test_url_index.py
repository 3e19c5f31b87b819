"""An index of URLs finds all positions of a URL, however many URLs the index has. The index removes its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.planning import url_index
from producer.planning.url_index import UrlIndex

_URLS = [f"http://a.example/{number}" for number in range(3000)]


@pytest.mark.parametrize("held", [1 << 20, 7], ids=["in memory", "in files"])
def test_each_url_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Each indexed URL has its position, and any other URL has no position. Large positions are exact."""
    monkeypatch.setattr(url_index, "_MAX_BUFFERED", held)
    urls = _URLS if held > len(_URLS) else _URLS[:100]
    with UrlIndex(tmp_path / "index") as index:
        for number, url in enumerate(urls):
            index.add(url, number << 32 | 5)
        assert [index.find(url) for url in urls] == [[number << 32 | 5] for number in range(len(urls))]
        assert index.find("http://b.example/") == []
        assert [path.name for path in (tmp_path / "index").iterdir()] == ["records"]
    assert list(tmp_path.iterdir()) == []


def test_returns_the_lowest_positions(tmp_path: Path) -> None:
    """For a URL with a thousand positions, the lowest few are returned."""
    with UrlIndex(tmp_path / "index") as index:
        for place in reversed(range(1000)):
            index.add("a", place)
        assert index.find("a") == [0, 1, 2, 3]


def test_urls_with_the_same_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two URLs share a hash, the positions of both URLs are returned. The caller compares the URLs."""
    monkeypatch.setattr(url_index, "_hash", lambda url: (b"a" if url in "ab" else b"z") * 8)
    with UrlIndex(tmp_path / "index") as index:
        index.add("b", 1)
        index.add("a", 0)
        index.add("c", 2)
        assert (index.find("a"), index.find("c")) == ([0, 1], [2])


def test_empty_index(tmp_path: Path) -> None:
    """An empty index finds nothing."""
    with UrlIndex(tmp_path / "index") as index:
        assert index.find("a") == []


def test_removes_files_of_a_killed_producer(tmp_path: Path) -> None:
    """Files that a killed producer left in the folder are removed."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "0000").write_bytes(b"x" * 16)
    with UrlIndex(tmp_path / "index") as index:
        assert index.find("a") == []
