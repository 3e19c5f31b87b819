"""A case: the server's answer, the URLs to fetch, and why imagefleet may refuse the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

from tasks.model import FetchOptions
from tests.encoding import encoded
from tests.waiting import PATIENCE

#: The columns of the table.
CLIENTS = ("imagefleet", "curl", "requests")
#: The client saved the image unchanged.
SAVED = "saved"
#: The client reports success, but saved other bytes.
OTHER_BYTES = "**other bytes**"
#: imagefleet's options, unless a case has its own.
OPTIONS = FetchOptions(timeout=2.0, deadline=PATIENCE, retries=0)
#: The image of most cases: a JPEG of about 700 bytes.
IMAGE = encoded(Image.new("RGB", (24, 16), "teal"), "JPEG")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request received by the server."""

    #: The whole head, as text.
    head: str
    #: The number of earlier requests in this case, on any connection.
    earlier: int
    #: The server's own URL, without a trailing slash.
    server: str

    @property
    def target(self) -> str:
        """Return the request target: the path and query, or the whole URL if the client uses the server as a proxy."""
        return self.head.split(" ", 2)[1]

    def has(self, line: str) -> bool:
        """Return whether a header line is present; upper and lower case in its name are equal."""
        return line.lower() in self.head.lower().split("\r\n")


#: The server's answer: one piece, or several sent one by one.
Answer = Callable[[ReceivedRequest], bytes | Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    #: Short and unique; lower case with hyphens. The stored results are keyed by this name.
    name: str
    #: The server's behaviour, as shown in the first column; Markdown.
    title: str
    #: The bytes of every answer, or a function that makes them.
    answer: bytes | Answer
    #: Why imagefleet refuses the image although curl or requests save it; empty if none of them saves more than
    #: imagefleet.
    reason: str = ""
    #: The URLs to fetch one after the other over the same connections; the row shows the result of the last URL.
    #: ``{server}`` is replaced by the server's own URL.
    urls: tuple[str, ...] = ("{server}/image",)
    #: The expected bytes.
    image: bytes = IMAGE
    #: Whether the server closes the connection after each answer.
    closes: bool = False
    #: Whether the clients use the server as their HTTP proxy; if so, ``urls`` may contain any host.
    proxied: bool = False
    #: imagefleet's options.
    options: FetchOptions = OPTIONS


def answer(body: bytes | Iterable[bytes] = IMAGE, *fields: str, status: str = "200 OK", length: bool = True) -> bytes:
    """Return an answer. Each field is a whole line. A Content-Length is added unless ``length`` is false."""
    sent = body if isinstance(body, bytes) else b"".join(body)
    lines = [f"HTTP/1.1 {status}", *fields, *([f"Content-Length: {len(sent)}"] if length else [])]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + sent


def redirect(location: str, *fields: str, status: str = "302 Found") -> bytes:
    """Return a redirect without a body."""
    return answer(b"", f"Location: {location}", *fields, status=status)


def by_path(answers: dict[str, bytes], otherwise: bytes = b"") -> Answer:
    """Return an answer that depends on the path; unknown paths are 404."""
    missing = otherwise or answer(b"not here", status="404 Not Found")
    return lambda received: answers.get(received.target.partition("?")[0], missing)
