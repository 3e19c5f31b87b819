"""A route of the demo server: a name, the handler that answers below it, and a sentence that says how.

To add a route: a handler with `@….route(name)` in `faults.py` or `pages.py`, whose docstring is its
sentence in `ROUTES` and on `/`; or a line of `….fixed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from producer.demo.gallery import Gallery
from producer.demo.http import Reply, Request

__all__ = ["Handler", "Site", "Table", "whole"]


class Site(Protocol):
    """What a handler may ask of the server, and what it may change."""

    gallery: Gallery
    counts: Counter[str]
    changes: int

    @property
    def routes(self) -> Mapping[str, str]:
        """Each route and its sentence."""

    @property
    def url(self) -> str:
        """Where the server is reached."""

    def first_visit(self, request: Request) -> bool:
        """Whether nobody has asked for this path and query before."""


Handler = Callable[[Site, Request], Awaitable[Reply]]
"""What answers a request; it may raise Refused."""


class Table:
    """Routes by name, in the order in which they were made."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def route(self, name: str) -> Callable[[Handler], Handler]:
        """Make a handler that of the path `name` and of all below it."""

        def add(handler: Handler) -> Handler:
            self.handlers[name] = handler
            return handler

        return add

    def fixed(self, name: str, sentence: str, reply: Reply) -> Handler:
        """Make a route that always gives the same reply."""

        async def handler(site: Site, request: Request) -> Reply:
            return reply

        handler.__doc__ = sentence
        return self.route(name)(handler)

    def once(self, fault: str, handler: Handler) -> None:
        """Make `/fault/{fault}-once` of the handler of `/fault/{fault}`."""

        async def once(site: Site, request: Request) -> Reply:
            return await (handler if site.first_visit(request) else whole)(site, request)

        once.__doc__ = f"As {fault} at the first hit of each URL, then the picture."
        self.route(f"/fault/{fault}-once")(once)


async def whole(site: Site, request: Request) -> Reply:
    """The picture, as it should be."""
    drawn = await site.gallery.draw(request)
    return Reply(drawn.head, drawn.body)
