"""A URL list on a web server.

The first request asks for the first block. If the server sends only this block, it understands ranges. Each further
block is then requested with the ETag of the first block. Otherwise, the server sends the whole list, which is then read
from one response.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import requests
import urllib3

from producer.sources.remote_file import RemoteChangedError, RemoteError
from tasks.download.adapters import USER_AGENT

#: Limits for connecting and for each wait for data, in seconds.
_TIMEOUTS = (10, 30)
#: Attempts to open the list, and to fetch a block of an open list.
_FIRST_ATTEMPTS, _ATTEMPTS = 3, 6
#: The wait before the second attempt, in seconds. Each further wait is twice as long.
_FIRST_WAIT_SECONDS = 0.5
_FIRST_BLOCK_BYTES = 256 * 1024
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BY_HAND = "Check the URL, or download the list and give the path of the file."


class _TemporaryError(RemoteError):
    """An attempt failed, but another attempt may succeed."""


class HttpObject:
    """One version of a list on a web server."""

    def __init__(self, source: str) -> None:
        """Find a list.

        Raises:
            RemoteError: the list does not exist, or can't be read.
        """
        self._url = source.strip()
        self._session = requests.Session()
        self.size: int | None = None
        self.version: str | None = None
        self.has_ranges = True
        #: The response with the rest of the list, if the server does not understand ranges.
        self._rest: requests.Response | None = None
        self._first = b""
        self._opened = False
        try:
            self._first = self._with_retries(0, _FIRST_BLOCK_BYTES)
        except BaseException:
            self.close()
            raise
        self._opened = True

    def fetch(self, start: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``start`` on.

        Raises:
            RemoteError: the bytes can't be read, or the list has changed.
        """
        if start < len(self._first):
            return self._first[start : start + count]
        if self._rest is not None:
            with _errors():
                return self._read(self._rest, count)
        return self._with_retries(start, count) if self.has_ranges else b""

    def close(self) -> None:
        """Close the connection."""
        if self._rest is not None:
            self._rest.close()
        self._session.close()

    def _with_retries(self, start: int, count: int) -> bytes:
        attempts = _ATTEMPTS if self._opened else _FIRST_ATTEMPTS
        for attempt in range(attempts):
            try:
                with _errors():
                    return self._request(start, count)
            except _TemporaryError as error:
                if attempt == attempts - 1:
                    raise RemoteError(str(error)) from error
                time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError

    def _request(self, start: int, count: int) -> bytes:
        # A range can't continue a compressed response.
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
            "Range": f"bytes={start}-{start + count - 1}",
        }
        # A weak ETag never matches.
        if self.version is not None and self.version.startswith('"'):
            headers["If-Match"] = self.version
        response = self._session.get(self._url, headers=headers, stream=True, timeout=_TIMEOUTS)
        keep = False
        try:
            found = self._accept(response, start, count)
            keep = self._rest is response
        finally:
            if not keep:
                response.close()
        return found

    def _accept(self, response: requests.Response, start: int, count: int) -> bytes:
        """Return the bytes of a response, after a check that it belongs to this version of the list."""
        status = response.status_code
        if status in _TEMPORARY:
            raise _TemporaryError(f"the server answered {_status_text(status)}")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.size is None:
            # There is no byte at this place, because the list is empty or its end was unknown.
            self.size = start
            return b""
        if status == HTTPStatus.PRECONDITION_FAILED:
            raise RemoteChangedError
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            hint = "Check the URL and its signature." if status in (401, 403) else _BY_HAND
            raise RemoteError(f"the server answered {_status_text(status)}", hint)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if status == HTTPStatus.OK:
            return self._accept_whole(response, version, count)
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise RemoteError("the server sent a part of the list that was not requested", _BY_HAND)
        size = None if found[3] == "*" else int(found[3])
        if not self._opened:
            self.size, self.version = size, version
        elif (size, version) != (self.size, self.version):
            raise RemoteChangedError
        wanted = int(found[2]) + 1 - start
        body = self._read(response, wanted)
        if len(body) < wanted:
            raise _TemporaryError("the connection broke")
        return body

    def _accept_whole(self, response: requests.Response, version: str | None, count: int) -> bytes:
        if self._opened:
            raise RemoteError("the server no longer sends parts of the list", _BY_HAND)
        length = response.headers.get("Content-Length", "")
        self.size = int(length) if length.isdecimal() else None
        self.version, self.has_ranges, self._rest = version, False, response
        return self._read(response, count)

    def _read(self, response: requests.Response, count: int) -> bytes:
        """Return the next ``count`` bytes of a body, as they were sent. At the body's end, return fewer bytes."""
        parts: list[bytes] = []
        while count and (part := response.raw.read(count, decode_content=False)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


@contextmanager
def _errors() -> Iterator[None]:
    """Translate the client's errors. The texts of these errors are not used, because they contain the URL."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise RemoteError("the TLS certificate of the server can't be verified", _BY_HAND) from error
    except requests.exceptions.TooManyRedirects as error:
        raise RemoteError("the server redirects too often", _BY_HAND) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
        raise RemoteError("its URL, or that of a redirect, is not valid", _BY_HAND) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _TemporaryError("the server did not answer in time") from error
    except requests.exceptions.ConnectionError as error:
        raise _TemporaryError(_connection_text(error)) from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _TemporaryError("the connection broke") from error


def _connection_text(error: BaseException) -> str:
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return "its host name has no address"
    if isinstance(reason, urllib3.exceptions.ProxyError):
        return "the proxy can't be used"
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return "no connection to the server"
    return "the connection broke"
