"""The gallery answers only requests with its token on loopback, and shows hostile texts as texts."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from html import unescape

import pyarrow as pa
import pytest

from producer.gallery.gallery import Gallery
from producer.gallery.server import GalleryServer
from tasks.errors import UsageError
from tasks.model import Reason
from tasks.storage import manifest, shard_parquet
from tasks.storage.local_store import LocalStore
from tasks.storage.shard_parquet import ShardRef
from tests.gallery_runs import Picture, make_gallery_run, served
from tests.runs import RUN_ID
from tests.unit.conftest import image
from tests.waiting import PATIENCE

_MARKUP = "<script>alert(1)</script>"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>'
_PICTURES = [
    Picture("http://a.example/1.png", image()),
    Picture(f"http://b.example/{_MARKUP}?token=very-secret", reason=Reason.HTTP_4XX, message=f"{_MARKUP}\x1b[31m"),
    Picture("http://a.example/3.svg", _SVG, "svg", size=(None, None)),
    Picture("http://user:hidden@a.example/4.tiff", image("TIFF"), "tiff"),
    Picture("http://a.example/5.png", b"<!doctype html>" + _MARKUP.encode()),
]


class Visitor:
    """A client of a running gallery."""

    def __init__(self, server: GalleryServer) -> None:
        self.url = server.url
        self.port = int(re.findall(r":(\d+)/", server.url)[0])
        self.root = re.findall(r":\d+(/.*)", server.url)[0]

    def get(self, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
        """Send a request with a path as it is; return the response, whose body is read already."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {} if host is None else {"Host": host}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response
        finally:
            connection.close()

    def text(self, path: str = "") -> str:
        """Return a page of the gallery."""
        response = self.get(self.root + path)
        assert response.status == 200
        return body(response).decode()


def body(response: http.client.HTTPResponse) -> bytes:
    """Return the body of a response of `Visitor.get`."""
    found: bytes = response.body  # type: ignore[attr-defined]
    return found


@pytest.fixture
def visitor(store: LocalStore) -> Iterator[Visitor]:
    """Serve a run with hostile texts, until the test ends."""
    make_gallery_run(store, _PICTURES)
    with served(store) as server:
        yield Visitor(server)


def test_requests_without_the_token_are_refused(visitor: Visitor) -> None:
    """Without the token, no path answers with anything of the run."""
    for path in ("/", "/file/0/0", "/image?at=0", "/static/gallery.css", "/x/", f"{visitor.root[:-2]}x/", "//", "*"):
        response = visitor.get(path)
        assert response.status == 403, path
        assert b"list.txt" not in body(response)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:80", 200),
        ("rebound.example", 403),
        ("rebound.example:8000", 403),
        ("127.0.0.1.rebound.example", 403),
        ("localhost.", 403),
    ],
)
def test_other_hosts_are_refused(visitor: Visitor, host: str, status: int) -> None:
    """A request under another name is refused even with the token, because that name may be rebound to loopback."""
    assert visitor.get(visitor.root, host).status == status


def test_paths_do_not_leave_the_gallery(visitor: Visitor) -> None:
    """Paths with dots, escapes or large numbers find nothing."""
    for path in (
        *("static/../../pyproject.toml", "static/%2e%2e/server.py", "static//etc/hostname", "file/../run.json"),
        *("file/0/00000000000", "file/0/-1", "file/0/0/1", "file/%30/0/..", "run.json", "00000.parquet", "file/9/9"),
    ):
        response = visitor.get(visitor.root + path)
        assert response.status == 404, path
        assert b"list.txt" not in body(response)


def test_only_get_is_answered(visitor: Visitor) -> None:
    """The gallery changes nothing, so other methods are refused."""
    assert {visitor.get(visitor.root, method=method).status for method in ("POST", "PUT", "DELETE")} == {405}


def test_each_answer_has_the_headers(visitor: Visitor) -> None:
    """Every answer forbids guessed types, other sites and other scripts, and names no server."""
    for path in ("", "image?at=0", "file/0/0", "file/0/1", "static/gallery.js", "progress", "missing"):
        response = visitor.get(visitor.root + path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "Server" not in response.headers


def test_images_run_no_scripts(visitor: Visitor) -> None:
    """An SVG is sent in a sandbox. A file that is no image is not sent, whatever its name says."""
    drawing, page, png = (visitor.get(f"{visitor.root}file/0/{row}") for row in (2, 4, 0))
    assert (drawing.headers["Content-Type"], body(drawing)) == ("image/svg+xml", _SVG)
    assert drawing.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert (page.status, page.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert body(page) == b"00000/000004.png is not an image of a known format."
    assert (png.headers["Content-Type"], body(png)) == ("image/png", image())


def test_texts_are_escaped_and_redacted(visitor: Visitor) -> None:
    """Markup is shown as text, control characters are replaced, and secrets are masked, on all pages."""
    pages = [visitor.text(), *(visitor.text(f"image?at={position}") for position in range(5))]
    for page in pages:
        assert _MARKUP not in page
        assert "very-secret" not in page
        assert "hidden@" not in page
        assert "\x1b" not in page
    assert f"{_MARKUP}\ufffd[31m" in unescape(pages[0])
    assert f"http://b.example/{_MARKUP}?token=***" in unescape(pages[2])


def test_query_is_escaped(visitor: Visitor) -> None:
    """Markup in a link to the gallery is shown as text in the form and in the message."""
    page = visitor.text("?host=%22%3E%3Cscript%3E&reason=%3Cscript%3E&page=%3Cscript%3E&min_side=%3Cscript%3E&x=%FF")
    assert "<script>" not in page.replace("<script src=", "")
    assert "There is no reason <script>." in unescape(page)


def test_filters_and_pages(visitor: Visitor) -> None:
    """The form offers the values of the run with their counts. A page beyond the last one is the last one."""
    page = visitor.text("?status=success&page=99")
    assert '<option value="success" selected>success (4)</option>' in page
    assert '<option value="http_4xx">http_4xx (1)</option>' in page
    assert "dns" not in page
    assert '<option value="a.example"></option>' in page
    assert re.search(r"Images 1 to 4 of\s+<span[^>]*>4<", page)
    assert page.count('class="tile"') == 4
    assert "No image matches." in visitor.text("?status=success&reason=http_4xx")


def test_format_without_a_browser(visitor: Visitor) -> None:
    """For a format that browsers don't show, the pages say so and link to the file."""
    assert "Browsers don't show this format." in visitor.text()
    page = visitor.text("image?at=3")
    assert "Browsers don&#39;t show images in the format tiff." in page
    assert '<a href="file/0/3">Open the file</a>' in page


def test_saved_image_of_an_unknown_format(store: LocalStore) -> None:
    """A manifest may lack the format of a saved image. The pages show the image."""
    make_gallery_run(store, [Picture("http://a.example/1.png", image())])
    saved = manifest.decode(store.read("00000.parquet"))
    unknown = saved.set_column(saved.column_names.index("format"), "format", pa.nulls(1, pa.string()))
    store.replace("00000.parquet", shard_parquet.encode(unknown, ShardRef(RUN_ID, 0)))
    with served(store) as server:
        assert '<img src="file/0/0"' in Visitor(server).text()
        assert "<span>unknown format</span>" in Visitor(server).text("image?at=0")


def test_progress_is_json(visitor: Visitor) -> None:
    """The script of a page gets the progress, the options and the hosts."""
    response = visitor.get(f"{visitor.root}progress?reason=http_4xx")
    assert response.headers["Content-Type"] == "application/json"
    state = json.loads(body(response))
    assert (state["text"], state["ready"], state["complete"]) == ("1", True, True)
    assert state["options"]["format"] == [["png", "png (2)"], ["svg", "svg (1)"], ["tiff", "tiff (1)"]]


def test_port_in_use(visitor: Visitor, store: LocalStore) -> None:
    """The error names the port."""
    with pytest.raises(UsageError, match=f"can't listen on port {visitor.port}"):
        GalleryServer(Gallery(store), visitor.port)


def test_listens_on_loopback_only(visitor: Visitor) -> None:
    """The server's only socket is bound to 127.0.0.1."""
    assert visitor.url.startswith("http://127.0.0.1:")
    connection = http.client.HTTPConnection("127.0.0.2", visitor.port, timeout=PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()
