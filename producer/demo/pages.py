"""The demo server's pages that always work: the index, the images, the URL lists and the request counts."""

from __future__ import annotations

import asyncio
import html
import json

from producer.demo.gallery import IMAGE_PATH, image_path
from producer.demo.http import Reply, Request, RequestRefusedError, answer, number, page, response_head
from producer.demo.routes import Site, Table, whole

__all__ = ["PAGES"]

PAGES = Table()

_LIST_LIMIT = 1_000_000  # lines


@PAGES.route("/")
async def _index(site: Site, request: Request) -> Reply:
    """This list of routes, and a few images."""
    samples = "".join(f'<img src="/images/{n}.jpg?width=200&amp;height=100" alt="">' for n in range(6))
    rows = "".join(
        f'<tr><td><a href="{name}">{name}</a><td>{html.escape(sentence)}' for name, sentence in site.routes.items()
    )
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>imagefleet demo images</title>'
        "<style>body{font:16px system-ui;margin:2em}td{padding:.2em 1em .2em 0}img{margin-right:4px}</style>"
        f"<h1>imagefleet demo images</h1><p>{samples}<table>{rows}</table>"
    )
    return answer(text.encode(), "text/html; charset=utf-8")


@PAGES.route("/images")
async def _images(site: Site, request: Request) -> Reply:
    """An image: /images/INDEX.jpg, .png, .webp or .gif, with ?width=, ?height= (pixels), ?latency= (seconds)."""
    if not IMAGE_PATH.match(request.path):
        raise RequestRefusedError(404, "The path of an image is /images/INDEX.jpg, .png, .webp or .gif.")
    drawn = await site.gallery.draw(request)
    if request.has_version(drawn.etag):
        return Reply(response_head(304, ("ETag", drawn.etag)))
    return Reply(drawn.head, drawn.body)


@PAGES.route("/list")
async def _list(site: Site, request: Request) -> Reply:
    """A list of ?count= image URLs (default: 100), one on each line. The four formats alternate."""
    count = int(number(request, "count", 100, 0, _LIST_LIMIT))
    host = request.host or site.url.removeprefix("http://")
    return await asyncio.to_thread(_url_list, host, count)


def _url_list(host: str, count: int) -> Reply:
    return page(200, "".join(f"http://{host}{image_path(n)}\n" for n in range(count)))


@PAGES.route("/changing")
async def _changing(site: Site, request: Request) -> Reply:
    """A different image in a different format at each request."""
    hit = site.changes
    site.changes += 1
    return await whole(site, request._replace(path=image_path(hit)))


PAGES.fixed(
    "/robots.txt",
    "A robots.txt that forbids /fault/robots-denied to all robots.",
    page(200, "User-agent: *\nDisallow: /fault/robots-denied\n"),
)
PAGES.fixed("/healthcheck", "Answers ok.", page(200, "ok\n"))


@PAGES.route("/stats")
async def _stats(site: Site, request: Request) -> Reply:
    """The number of requests by route, as JSON. Requests without a route are "unknown". Invalid ones are "refused"."""
    return answer(json.dumps(site.counts, indent=2).encode() + b"\n", "application/json")
