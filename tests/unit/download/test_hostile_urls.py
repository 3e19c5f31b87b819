"""No connection to this machine's address is made, whether a list or a redirect has the address, in any notation."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from producer.demo import DemoServer
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.errors import BlockedAddressError, DnsError, InvalidUrlError, RedirectError
from tests.hostile_urls import URLS
from tests.unit.conftest import Canned, response
from tests.unit.download.attempts import failure


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Return listening sockets on one port of both loopback addresses, if this machine has them."""
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
    """Return the sessions of a worker without allowed networks."""
    return Sessions(Guard())


def assert_untouched(listeners: list[socket.socket]) -> None:
    """Fail if a client has connected."""
    for listener in listeners:
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_corpus_has_the_promised_size() -> None:
    """There are at least 90 hostile URLs."""
    assert len(URLS) >= 90


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_hostile_url_in_a_list(url: str, listeners: list[socket.socket], sessions: Sessions) -> None:
    """A hostile URL in a list fails with the expected reason, and no connection reaches the listener."""
    url = url.replace("PORT", str(listeners[0].getsockname()[1]))
    error, _ = failure(Downloader(sessions), url)
    assert isinstance(error, BlockedAddressError | InvalidUrlError | DnsError)
    assert_untouched(listeners)


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_hostile_url_in_a_redirect(
    url: str, listeners: list[socket.socket], sessions_to: Callable[..., Sessions]
) -> None:
    """An allowed server can't redirect to a hostile URL either."""
    url = url.replace("PORT", str(listeners[0].getsockname()[1])).strip()
    location = f"Location: {url.encode().decode('latin-1')}"
    with Canned(lambda _: [response(b"", "302 Found", location)]) as server:
        error, _ = failure(Downloader(sessions_to(server.address)), server.url)
    assert isinstance(error, BlockedAddressError | RedirectError | DnsError)
    assert_untouched(listeners)


def test_redirect_of_a_redirect(demo: DemoServer, downloader: Downloader, listeners: list[socket.socket]) -> None:
    """Every redirect is checked, not only the first."""
    url = f"http://0x7f.1:{listeners[0].getsockname()[1]}/"
    error, _ = failure(downloader, f"{demo.url}/fault/redirect-to?url={demo.url}/fault/redirect-to?url={url}")
    assert isinstance(error, BlockedAddressError)
    assert_untouched(listeners)
