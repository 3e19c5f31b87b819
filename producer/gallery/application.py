"""The gallery's web application: pages and images on loopback, for requests that know its token.

Why a token in the path, and no cookie: browsers send a cookie for 127.0.0.1 to every port, so to every other server on
the machine. The path stays with the gallery. Links inside the pages are relative, so they keep the token.

Why the Host header is checked: a page of another site can point its own name at 127.0.0.1 (DNS rebinding). Its requests
then reach the gallery, but their Host is that name.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import orjson
from tornado.httputil import split_host_and_port
from tornado.web import Application, HTTPError, RequestHandler

from producer.gallery import pages
from producer.gallery.gallery import PAGE_SIZE, SEARCH_SECONDS, Gallery
from producer.gallery.image_files import ImageUnavailableError
from producer.gallery.image_filter import FilterError, ImageFilter
from tasks.errors import CommandError, StorageError
from tasks.redaction import redacted

_T = TypeVar("_T")
#: The names of this machine for itself. A tunnel may use another port, so the port is not checked.
_HOSTS = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})
_STATIC_FOLDER = Path(__file__).with_name("static")
_STATIC_TYPES = {"gallery.css": "text/css", "gallery.js": "text/javascript", "icon.svg": "image/svg+xml"}
_PAGE_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
#: An image that is opened by itself runs no scripts and loads nothing. SVG drawings have their styles inside.
_IMAGE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": _PAGE_POLICY,
}
#: Time in seconds for the counts of a page. A small run is counted at once; otherwise the page's script goes on.
_FIRST_COUNT_SECONDS = 0.05
#: Pages beyond this one are refused, because no run has so many images.
_MAX_PAGE = 10**9


@dataclass(frozen=True, slots=True)
class Access:
    """What a request needs: the gallery, the token in its path, and the threads that read files."""

    gallery: Gallery
    token: str
    threads: Executor


def create_application(access: Access) -> Application:
    """Return the web application."""
    inside = rf"/{access.token}"
    given = {"access": access}
    return Application(
        [
            (rf"{inside}/", _PageHandler, given),
            (rf"{inside}/image", _ImagePageHandler, given),
            (rf"{inside}/progress", _ProgressHandler, given),
            (rf"{inside}/file/([0-9]{{1,9}})/([0-9]{{1,9}})", _FileHandler, given),
            (rf"{inside}/static/({'|'.join(map(_escape, _STATIC_TYPES))})", _StaticHandler, given),
        ],
        default_handler_class=_MissingHandler,
        default_handler_args=given,
        # Requests are not logged, because a path has the token.
        log_function=lambda handler: None,
    )


def _escape(name: str) -> str:
    return name.replace(".", r"\.")


class _Handler(RequestHandler):  # type: ignore[misc]
    """Checks each request's host and token, and answers in the gallery's threads."""

    def initialize(self, access: Access) -> None:
        """Take the gallery and the token."""
        self.access = access

    def set_default_headers(self) -> None:
        """Set the headers that keep a browser from guessing types, running scripts and sending the token elsewhere."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse a request of another site, or without the token."""
        host, _ = split_host_and_port(self.request.host.lower())
        token = self.request.path.removeprefix("/").partition("/")[0]
        if host not in _HOSTS or not secrets.compare_digest(token.encode(), self.access.token.encode()):
            raise HTTPError(403)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Return the result of a call that reads files. It runs in a thread, so other requests do not wait."""
        return await asyncio.get_running_loop().run_in_executor(self.access.threads, call)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Explain why there is no page."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if status_code == 403:
            text = "Open the whole address that the command printed, on this machine. It changes with each start."
            self.finish(pages.render_refusal("This address has no access", text, inside=False))
        elif status_code < 500:
            self.finish(pages.render_refusal("There is no such page", "The run may have changed.", inside=True))
        else:
            text = str(error) if isinstance(error, (CommandError, StorageError)) else "The terminal shows the error."
            self.finish(pages.render_refusal("The gallery can't read the run", text, inside=True))

    def log_exception(self, kind: Any, error: Any, traceback: Any) -> None:
        """Log an unexpected error. The page explains the others."""
        if not isinstance(error, (CommandError, StorageError)):
            super().log_exception(kind, error, traceback)

    def compute_etag(self) -> None:
        """Send no ETag, because browsers keep no copy."""

    def chosen(self) -> tuple[ImageFilter, dict[str, str], str | None]:
        """Return the request's filter, the texts of its form, and what is wrong with them."""
        texts = {field.name: self.get_query_argument(field.name, "") for field in fields(ImageFilter)}
        try:
            return ImageFilter.from_query(texts), texts, None
        except FilterError as error:
            return ImageFilter(), texts, str(error)

    def number(self, name: str, least: int) -> int:
        """Return a whole number of the request's query; ``least`` if it is missing or not such a number."""
        text = self.get_query_argument(name, "")
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else least
        return max(least, min(number, _MAX_PAGE))


class _PageHandler(_Handler):
    """A page of images, with the form of the filters."""

    async def get(self) -> None:
        """Answer with the page. A page beyond the last one is the last one."""
        chosen, texts, error = self.chosen()
        gallery, number = self.access.gallery, self.number("page", 1)
        page = await self.run(lambda: gallery.page(chosen, number))
        if page.last is not None and page.number > page.last:
            last = page.last
            page = await self.run(lambda: gallery.page(chosen, last))
        counts = await self.run(lambda: gallery.counts(_FIRST_COUNT_SECONDS))
        self.finish(pages.render_page(gallery, page, pages.FilterForm(chosen, texts, counts, error)))


class _ImagePageHandler(_Handler):
    """The page of one image, with its manifest row."""

    async def get(self) -> None:
        """Answer with the page, or with 404 if the run has no such image."""
        chosen, _, _ = self.chosen()
        gallery, position = self.access.gallery, self.number("at", 0)
        image = await self.run(lambda: gallery.image_row(chosen, position))
        is_complete = False
        while image is None and not is_complete:
            # A new search has not come to this position yet.
            is_complete = (await self.run(lambda: gallery.progress(chosen))).is_complete
            image = await self.run(lambda: gallery.image_row(chosen, position))
        if image is None:
            raise HTTPError(404)
        self.finish(pages.render_image(gallery, image, chosen))


class _ProgressHandler(_Handler):
    """The progress of a search and of the counts, for the script of the page."""

    async def get(self) -> None:
        """Search and count further, and answer with the progress as JSON."""
        chosen, texts, _ = self.chosen()
        gallery, wanted = self.access.gallery, self.number("page", 1) * PAGE_SIZE
        progress = await self.run(lambda: gallery.progress(chosen))
        counts = await self.run(lambda: gallery.counts(SEARCH_SECONDS)) if progress.is_complete else None
        form = pages.FilterForm(chosen, texts, counts)
        self.set_header("Content-Type", "application/json")
        self.finish(
            orjson.dumps(
                {
                    "text": pages.progress_text(progress),
                    "ready": progress.is_complete or progress.found >= wanted,
                    "complete": counts is not None,
                    "options": form.options() if counts is not None else None,
                    "hosts": form.hosts(),
                }
            )
        )


class _FileHandler(_Handler):
    """The file of an image."""

    async def get(self, shard: str, row: str) -> None:
        """Answer with the image, or with 404 and a text that says why there is none."""
        self.set_header("Content-Security-Policy", _IMAGE_POLICY)
        try:
            image = await self.run(lambda: self.access.gallery.image(int(shard), int(row)))
        except ImageUnavailableError as error:
            self.set_status(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(redacted(str(error)))
            return
        self.set_header("Content-Type", image.content_type)
        self.finish(image.body)


class _StaticHandler(_Handler):
    """The style sheet, the script and the icon."""

    def get(self, name: str) -> None:
        """Answer with the file."""
        self.set_header("Content-Type", f"{_STATIC_TYPES[name]}; charset=utf-8")
        self.finish((_STATIC_FOLDER / name).read_bytes())


class _MissingHandler(_Handler):
    """Every other path."""

    def get(self) -> None:
        """Answer with 404. A request without the token was refused before."""
        raise HTTPError(404)
