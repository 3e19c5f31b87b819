"""However a list or a server writes an address of this machine, nothing connects to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from producer.demo import DemoServer
from tasks.download import Downloader
from tasks.errors import BlockedAddress, DnsFailed, InvalidUrl, TooManyRedirects
from tasks.guard import Guard
from tasks.session import Sessions
from tests.hostile_urls import URLS
from tests.unit.conftest import Canned, response
from tests.unit.test_download import failure


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Sockets that listen on one port of both loopbacks, as far as this machine has them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = [listener]
        port = listener.getsockname()[1]
        with suppress(OSError):
            found.append(socket.create_server(("::1", port), family=socket.AF_INET6))
        for each in found:
            each.setblocking(False)
        yield found
        for each in found[1:]:
            each.close()


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    """Sessions of a worker whose operator allows nothing."""
    return Sessions(Guard())


def assert_untouched(listeners: list[socket.socket]) -> None:
    """Fail if somebody has connected."""
    for listener in listeners:
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_there_are_many() -> None:
    """The corpus has the size that was promised."""
    assert len(URLS) >= 90


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_url_of_a_list(url: str, listeners: list[socket.socket], sessions: Sessions) -> None:
    """A hostile URL in a list ends as what it is, and whoever listens there sees nobody."""
    url = url.replace("PORT", str(listeners[0].getsockname()[1]))
    error, _ = failure(Downloader(sessions), url)
    assert isinstance(error, BlockedAddress | InvalidUrl | DnsFailed)
    assert_untouched(listeners)


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_url_of_a_redirect(url: str, listeners: list[socket.socket], sessions_to: Callable[..., Sessions]) -> None:
    """A server that may be asked leads to none of them either."""
    url = url.replace("PORT", str(listeners[0].getsockname()[1])).strip()
    location = f"Location: {url.encode().decode('latin-1')}"
    with Canned(lambda _: [response(b"", "302 Found", location)]) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert isinstance(error, BlockedAddress | TooManyRedirects | DnsFailed)
    assert_untouched(listeners)


def test_redirect_of_a_redirect(demo: DemoServer, downloader: Downloader, listeners: list[socket.socket]) -> None:
    """Each hop is judged, also the second."""
    url = f"http://0x7f.1:{listeners[0].getsockname()[1]}/"
    error, _ = failure(downloader, f"{demo.url}/fault/redirect-to?url={demo.url}/fault/redirect-to?url={url}")
    assert isinstance(error, BlockedAddress)
    assert_untouched(listeners)
