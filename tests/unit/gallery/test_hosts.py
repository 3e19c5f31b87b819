"""A URL's host is named as in the other commands."""

from __future__ import annotations

import pyarrow as pa

from producer.gallery.hosts import hosts

_URLS = {
    "http://a.example/1.jpg": "a.example",
    "https://A.Example:443/2.jpg": "a.example",
    "http://a.example:8080?query": "a.example:8080",
    "http://user:pass@b.example/#x": "b.example",
    " http:\\\\c.example\\d": "c.example",
    "http://bücher.example/": "xn--bcher-kva.example",
    "http://127.1/": "127.0.0.1",
    "http://[::1]:81/": "[::1]:81",
    "ftp://a.example/": None,
    "not a URL": None,
    "": None,
    "http://": None,
}


def test_hosts_of_urls() -> None:
    """Ports of the scheme and userinfo are left out. A text that can't be downloaded has no host."""
    column = pa.chunked_array([[*_URLS, None], ["http://a.example/again"]], pa.string())
    assert hosts(column).to_pylist() == [*_URLS.values(), None, "a.example"]
