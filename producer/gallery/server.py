"""Serve the gallery on loopback until it is stopped."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tornado.httpserver import HTTPServer

from producer.gallery.application import Access, create_application
from producer.gallery.gallery import Gallery
from tasks.errors import UsageError

_ADDRESS = "127.0.0.1"
#: Threads that read files. Images are read beside a search, so that a page's images do not wait for it.
_THREADS = 4
_MAX_REQUEST_BYTES = 64 * 1024
_IDLE_SECONDS = 60


class GalleryServer:
    """The server of a gallery."""

    def __init__(self, gallery: Gallery, port: int) -> None:
        """Listen on loopback.

        Args:
            gallery: the run's images.
            port: the port; 0 for any free one.

        Raises:
            UsageError: the port can't be used.
        """
        self._gallery = gallery
        self._token = secrets.token_urlsafe(24)
        self._socket = _listen(port)
        self._end: Callable[[], object] = lambda: None
        self._is_stopped = False

    @property
    def url(self) -> str:
        """The address with the token."""
        return f"http://{_ADDRESS}:{self._socket.getsockname()[1]}/{self._token}/"

    def run(self) -> None:
        """Serve until `stop` is called."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End `run`, from any thread or from a signal handler."""
        self._is_stopped = True
        self._end()

    async def _run(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._end = lambda: loop.call_soon_threadsafe(ended.set)
        if self._is_stopped:
            ended.set()
        with ThreadPoolExecutor(_THREADS, "gallery") as threads:
            server = HTTPServer(
                create_application(Access(self._gallery, self._token, threads)),
                max_body_size=_MAX_REQUEST_BYTES,
                idle_connection_timeout=_IDLE_SECONDS,
            )
            server.add_socket(self._socket)
            try:
                await ended.wait()
            finally:
                server.stop()
                await server.close_all_connections()


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server((_ADDRESS, port))
    except OSError as error:
        raise UsageError(
            f"The gallery can't listen on port {port}",
            error.strerror or str(error),
            "Choose another --port, or leave the option out to use any free port.",
        ) from error
    listener.setblocking(False)
    return listener
