"""Run sites with a robots.txt, and ask for their images as a run with ``--robots obey`` does."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tasks.download.downloader import Downloader
from tasks.errors import RobotsDeniedError
from tasks.model import FetchOptions
from tasks.throttle_options import RobotsPolicy, ThrottleOptions
from tests.unit.conftest import ONCE, Canned, image, response
from tests.unit.download.attempts import download

OBEY = replace(ONCE, throttle=ThrottleOptions(robots=RobotsPolicy.OBEY))
DENY_ALL = b"User-agent: *\nDisallow: /\n"
DENY_X = b"User-agent: *\nDisallow: /x\n"


class Site(Canned):
    """A server with a robots.txt. Every other path has an image."""

    def __init__(self, robots: Callable[[], Iterable[bytes]], tls: ssl.SSLContext | None = None) -> None:
        """Take a function that returns the pieces of the response for robots.txt."""
        super().__init__(self._choose, tls)
        self.robots = robots

    def _choose(self, request: bytes) -> Iterable[bytes]:
        return self.robots() if request.startswith(b"GET /robots.txt ") else [response(image())]

    @property
    def paths(self) -> list[str]:
        """The requested paths, in order."""
        return [request.split(b" ")[1].decode() for request in self.requests]

    @property
    def asked(self) -> int:
        """How often robots.txt was requested."""
        return self.paths.count("/robots.txt")


@contextmanager
def site(robots: bytes = b"", status: str = "200 OK", *fields: str) -> Iterator[Site]:
    """Run a site whose robots.txt has this body, status and header."""
    with Site(lambda: [response(robots, status, *fields)]) as server:
        yield server


def decision(downloader: Downloader, url: str, options: FetchOptions = OBEY) -> bool:
    """Tell whether a URL's image is downloaded; False if robots.txt forbids it."""
    try:
        return bool(download(downloader, url, options)[0].body)
    except RobotsDeniedError:
        return False
