"""Cases in which the server closes a connection before the next request or when it gets the next request."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.answers.case import Answer, Case, ReceivedRequest, answer

_TWO_URLS = ("{server}/first", "{server}/image")


def _ending_the_second(end: Callable[[], bytes | Iterator[bytes]]) -> Answer:
    """Answer every request except the second request. It arrives on the connection of the first request."""

    def answered(received: ReceivedRequest) -> bytes | Iterator[bytes]:
        return end() if received.earlier == 1 else answer()

    return answered


def _closed() -> bytes:
    raise ConnectionAbortedError


def _timed_out() -> Iterator[bytes]:
    yield answer(b"", "Connection: close", status="408 Request Timeout")
    raise ConnectionAbortedError


CASES = [
    Case(
        "reused-closed",
        "closes a kept connection when the next request arrives, without an answer",
        _ending_the_second(_closed),
        urls=_TWO_URLS,
    ),
    Case(
        "reused-408",
        "answers the next request on a kept connection with 408, and closes it",
        _ending_the_second(_timed_out),
        urls=_TWO_URLS,
    ),
]
