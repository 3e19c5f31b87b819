"""HTTP/1.1 messages as values: a parsed request, and a reply to send."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

__all__ = ["Pieces", "Reply", "Request", "RequestRefusedError", "answer", "number", "page", "parse", "response_head"]


class Request(NamedTuple):
    """A GET or HEAD request without a body."""

    method: str
    target: str  # as sent: path and query
    path: str
    query: Mapping[str, str]
    host: str  # with its port; empty without a Host header
    keep_alive: bool
    if_none_match: str = ""

    def has_version(self, etag: str) -> bool:
        """Return whether the client already has the version with this ETag, and would use it again."""
        tags = {tag.strip().removeprefix("W/") for tag in self.if_none_match.split(",")}
        return not tags.isdisjoint({etag, "*"})


Pieces = bytes | AsyncGenerator[bytes, None]
"""A part of a reply: complete bytes, or an async generator of pieces."""


class Reply(NamedTuple):
    """A reply exactly as it is sent."""

    head: Pieces
    body: Pieces = b""
    close: bool = False


class RequestRefusedError(Exception):
    """A request is refused with this status and this one-line reason."""

    def __init__(self, status: int, message: str, *fields: tuple[str, object]) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields

    def reply(self) -> Reply:
        """Return the reply with the status and the reason."""
        return page(self.status, f"{self}\n", *self.fields)


def response_head(status: int, *fields: tuple[str, object]) -> bytes:
    """Return the head of a reply, including the final empty line."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Server: imagefleet-demo"]
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(body: bytes, content_type: str, *fields: tuple[str, object], status: int = 200) -> Reply:
    """Return a reply that has a body, a Content-Type and a Content-Length; `fields` are further headers."""
    return Reply(response_head(status, ("Content-Type", content_type), ("Content-Length", len(body)), *fields), body)


def page(status: int, text: str, *fields: tuple[str, object]) -> Reply:
    """Return a plain-text reply."""
    return answer(text.encode(), "text/plain; charset=utf-8", *fields, status=status)


def parse(head: bytes) -> Request:
    """Parse a request's head, given without the final empty line.

    Raises:
        RequestRefusedError: the head is invalid, or the request is not supported.
    """
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[1].startswith("/") or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise RequestRefusedError(400, "This is not an HTTP/1.1 request.")
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
        raise RequestRefusedError(400, "Requests with a body are not served.")
    path, _, query = target.partition("?")
    return Request(
        method,
        target,
        path,
        dict(parse_qsl(query, keep_blank_values=True)) if query else {},
        headers.get("host", ""),
        version == "HTTP/1.1" and headers.get("connection", "").lower() != "close",
        headers.get("if-none-match", ""),
    )


def number(request: Request, name: str, default: float, low: float = 0, high: float = math.inf) -> float:
    """Return the query parameter `name`, a number from `low` to `high`.

    Raises:
        RequestRefusedError: the parameter is not a number in this range.
    """
    try:
        value = float(request.query.get(name, default))
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
        raise RequestRefusedError(400, f"{name} must be a number, {limits}.")
    return value
