"""The routes of the demo server. A route has a name, a handler, and a sentence about the route's effect.

To add a route, add a handler with `@….route(name)` to `faults.py` or `pages.py`, or a line of `….fixed`. The handler's
docstring is the sentence in `ROUTES` and on `/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from producer.demo.gallery import Gallery
from producer.demo.http import Reply, Request

__all__ = ["Handler", "Site", "Table", "whole"]


class Site(Protocol):
    """The interface of the server for handlers."""

    gallery: Gallery
    counts: Counter[str]
    changes: int

    @property
    def routes(self) -> Mapping[str, str]:
        """The routes, each with the sentence about its effect."""

    @property
    def url(self) -> str:
        """The URL of the server."""

    def first_visit(self, request: Request) -> bool:
        """Return whether this is the first request for this path and query."""


Handler = Callable[[Site, Request], Awaitable[Reply]]
"""A function that answers a request; it may raise RequestRefusedError."""


class Table:
    """Routes by name, in the order of their definition."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def route(self, name: str) -> Callable[[Handler], Handler]:
        """Register a handler for the path `name` and all paths below it."""

        def add(handler: Handler) -> Handler:
            self.handlers[name] = handler
            return handler

        return add

    def fixed(self, name: str, sentence: str, reply: Reply) -> Handler:
        """Add a route with a constant reply."""

        async def handler(site: Site, request: Request) -> Reply:
            return reply

        handler.__doc__ = sentence
        return self.route(name)(handler)

    def once(self, fault: str, handler: Handler) -> None:
        """Add `/fault/{fault}-once` from the handler of `/fault/{fault}`."""

        async def once(site: Site, request: Request) -> Reply:
            return await (handler if site.first_visit(request) else whole)(site, request)

        once.__doc__ = f"Like {fault} for the first request to each URL. Later requests get the image."
        self.route(f"/fault/{fault}-once")(once)


async def whole(site: Site, request: Request) -> Reply:
    """Return the complete image."""
    drawn = await site.gallery.draw(request)
    return Reply(drawn.head, drawn.body)
