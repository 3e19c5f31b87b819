"""A case: the server's answer, the URLs to fetch, and a reason for each image that imagefleet may refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

from tasks.model import FetchOptions
from tests.encoding import encoded
from tests.waiting import PATIENCE

#: The columns of the table.
CLIENTS = ("imagefleet", "curl", "requests")
#: The result of a client that saved the image unchanged.
SAVED = "saved"
#: The result of a client that saved other bytes but reports success.
OTHER_BYTES = "**other bytes**"
#: The options of imagefleet in every case that sets no options.
OPTIONS = FetchOptions(timeout=2.0, deadline=PATIENCE, retries=0)
#: The image of most cases: a JPEG of about 700 bytes.
IMAGE = encoded(Image.new("RGB", (24, 16), "teal"), "JPEG")


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request received by the server."""

    #: The whole head of the request, as text.
    head: str
    #: The number of earlier requests in this case, counted over all connections.
    earlier: int
    #: The server's own URL, without a trailing slash.
    server: str

    @property
    def target(self) -> str:
        """Return the request target: the path and query, or the whole URL if the client uses the server as a proxy."""
        return self.head.split(" ", 2)[1]

    def has(self, line: str) -> bool:
        """Return whether the head contains this header line, in upper or lower case."""
        return line.lower() in self.head.lower().split("\r\n")


#: The server's answer: one piece of bytes, or several pieces that are sent one by one.
Answer = Callable[[ReceivedRequest], bytes | Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    #: The case's name. It is short, unique, and in lower case with hyphens. The stored results are keyed by this name.
    name: str
    #: The server's behaviour in Markdown, as the first column shows it.
    title: str
    #: The bytes that answer every request, or a function that returns the answer to a request.
    answer: bytes | Answer
    #: The reason why imagefleet refuses an image that curl or requests save; empty if neither client saves more than
    #: imagefleet.
    reason: str = ""
    #: The URLs, which a client fetches one after the other over the same connections. The row shows the result of the
    #: last URL. ``{server}`` is replaced by the server's own URL.
    urls: tuple[str, ...] = ("{server}/image",)
    #: The expected bytes.
    image: bytes = IMAGE
    #: Whether the server closes the connection after each answer.
    closes: bool = False
    #: Whether the clients use the server as their HTTP proxy. If they do, ``urls`` may contain any host.
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
    """Return an answer that depends on the path. The answer to an unknown path is 404."""
    missing = otherwise or answer(b"not here", status="404 Not Found")
    return lambda received: answers.get(received.target.partition("?")[0], missing)
