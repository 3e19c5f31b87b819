"""A message of HTTP/1.1 as a value: a request that was read, or a reply that goes over the wire."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

__all__ = ["Pieces", "Reply", "Request", "RequestRefusedError", "answer", "number", "page", "parse", "response_head"]


class Request(NamedTuple):
    """A request for a path; it has no body."""

    method: str
    target: str  # as sent: path and query
    path: str
    query: Mapping[str, str]
    host: str  # with its port; empty if the client did not say
    keep_alive: bool


Pieces = bytes | AsyncGenerator[bytes, None]
"""A part of a reply, at once or by and by."""


class Reply(NamedTuple):
    """What goes over the wire, whole or in pieces; nothing is added to it."""

    head: Pieces
    body: Pieces = b""
    close: bool = False


class RequestRefusedError(Exception):
    """A request that is answered with a status of its own and a line that says why."""

    def __init__(self, status: int, message: str, *fields: tuple[str, object]) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields

    def reply(self) -> Reply:
        """The status and the line."""
        return page(self.status, f"{self}\n", *self.fields)


def response_head(status: int, *fields: tuple[str, object]) -> bytes:
    """The head of a reply, with the empty line that ends it."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: imagefleet-demo"]
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(body: bytes, content_type: str, *fields: tuple[str, object], status: int = 200) -> Reply:
    """A reply with a body, its type and its length; `fields` are further headers."""
    return Reply(response_head(status, ("Content-Type", content_type), ("Content-Length", len(body)), *fields), body)


def page(status: int, text: str, *fields: tuple[str, object]) -> Reply:
    """A reply of plain text."""
    return answer(text.encode(), "text/plain; charset=utf-8", *fields, status=status)


def parse(head: bytes) -> Request:
    """Read a request's head, without the empty line that ends it.

    Raises:
        RequestRefusedError: it is no request, or none that is served.
    """
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise RequestRefusedError(400, "This is not a request of HTTP/1.1.")
    method, target, version = words
    headers = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon:
            raise RequestRefusedError(400, "A header has no colon.")
        headers[name.lower()] = value.strip()
    if method not in ("GET", "HEAD"):
        raise RequestRefusedError(405, "Only GET and HEAD are served.", ("Allow", "GET, HEAD"))
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise RequestRefusedError(400, "A request with a body is not served.")
    path, _, query = target.partition("?")
    return Request(
        method,
        target,
        path,
        dict(parse_qsl(query, keep_blank_values=True)) if query else {},
        headers.get("host", ""),
        version == "HTTP/1.1" and headers.get("connection", "").lower() != "close",
    )


def number(request: Request, name: str, default: float, low: float = 0, high: float = math.inf) -> float:
    """The query's `name`, which must be a number from `low` to `high`.

    Raises:
        RequestRefusedError: it is not.
    """
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise RequestRefusedError(400, f"{name} must be a number, {limits}.")
    return value
