"""An index of URLs finds each at its places, however many there are, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer import urlindex
from producer.urlindex import UrlIndex

_URLS = [f"http://a.example/{number}" for number in range(3000)]


@pytest.mark.parametrize("held", [1 << 20, 7], ids=["held in memory", "written by and by"])
def test_each_url_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Each URL has its place, those that were not added have none, and large places stay what they are."""
    monkeypatch.setattr(urlindex, "_HELD", held)
    urls = _URLS if held > len(_URLS) else _URLS[:100]
    with UrlIndex(tmp_path / "index") as index:
        for number, url in enumerate(urls):
            index.add(url, number << 32 | 5)
        assert [index.find(url) for url in urls] == [[number << 32 | 5] for number in range(len(urls))]
        assert index.find("http://b.example/") == []
        assert [path.name for path in (tmp_path / "index").iterdir()] == ["records"]
    assert list(tmp_path.iterdir()) == []


def test_lowest_places_of_a_url(tmp_path: Path) -> None:
    """Of a URL that is there a thousand times, the lowest few places are told."""
    with UrlIndex(tmp_path / "index") as index:
        for place in reversed(range(1000)):
            index.add("a", place)
        assert index.find("a") == [0, 1, 2, 3]


def test_urls_of_the_same_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two URLs share a hash, the places of both are told, and who asks sees which is which."""
    monkeypatch.setattr(urlindex, "_hash", lambda url: (b"a" if url in "ab" else b"z") * 8)
    with UrlIndex(tmp_path / "index") as index:
        index.add("b", 1)
        index.add("a", 0)
        index.add("c", 2)
        assert (index.find("a"), index.find("c")) == ([0, 1], [2])


def test_empty_index(tmp_path: Path) -> None:
    """An index of nothing finds nothing."""
    with UrlIndex(tmp_path / "index") as index:
        assert index.find("a") == []


def test_what_a_killed_one_has_left(tmp_path: Path) -> None:
    """What stands in the folder is of a killed producer, and is removed."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "0000").write_bytes(b"x" * 16)
    with UrlIndex(tmp_path / "index") as index:
        assert index.find("a") == []
