"""Sockets with a deadline.

The timeout of the requests library limits a single wait on a socket, but not the sum of the waits. So a server that
sends one byte per second could hold a download forever. These sockets check the deadline before each read, even within
a header or a TLS record. They also shorten their timeout to the remaining time.

At each system call, Python lets another thread run. This switch costs more time than most system calls. So a plain
socket makes few calls. The kernel applies the socket's timeout, so Python makes no ``poll`` before each call. One call
receives a small image together with its header.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any

from tasks.deadline import Deadline

#: The maximum size of one read, in bytes.
_BUFFER_BYTES = 64 * 1024


class CurrentDeadline:
    """The deadline of a thread's current download. The thread's sockets read the deadline from this object."""

    __slots__ = ("deadline", "tls_unverified")

    def __init__(self) -> None:
        self.deadline = Deadline(0, 0)
        #: Whether the last request went to a server that was not verified.
        self.tls_unverified = False


class DeadlineSocket:
    """The common part of both kinds of socket. It checks the deadline before each call."""

    _current: CurrentDeadline | None = None
    #: Whether a byte has arrived since this attribute was last set to False.
    has_received = False

    def use_deadline(self, current: CurrentDeadline) -> None:
        """Apply the thread's current deadline to all later calls."""
        self._current = current

    def recv_into(self, *args: Any) -> int:
        """Receive data; the deadline limits the wait."""
        self._apply_timeout()
        try:
            size = int(super().recv_into(*args))  # type: ignore[misc]
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error
        if size:
            self.has_received = True
        return size

    def sendall(self, *args: Any) -> None:
        """Send data; the deadline limits the wait."""
        self._apply_timeout()
        try:
            super().sendall(*args)  # type: ignore[misc]
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error

    def makefile(self, mode: str = "r", buffering: int = _BUFFER_BYTES, **options: Any) -> Any:
        """Return a file object for this connection, with a buffer that can hold a small image."""
        return super().makefile(mode, buffering, **options)  # type: ignore[misc]

    def _apply_timeout(self) -> None:
        if self._current is not None:
            self._set_timeout(self._current.deadline.wait())

    def _set_timeout(self, seconds: float) -> None:
        raise NotImplementedError


class PlainSocket(DeadlineSocket, socket.socket):  # type: ignore[misc]  # makefile has five forms
    """A connection without TLS; after it gets a deadline, the kernel limits its waits."""

    _timeout = 0.0

    def use_deadline(self, current: CurrentDeadline) -> None:
        """Apply the thread's current deadline to all later calls."""
        super().use_deadline(current)
        # With a timeout in Python, each call would be two system calls: poll, then the call itself.
        self.settimeout(None)

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout:
            self._timeout = seconds
            # For the kernel, zero means no limit.
            value = struct.pack("@ll", *divmod(max(int(seconds * 1_000_000), 1), 1_000_000))
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class TlsSocket(DeadlineSocket, ssl.SSLSocket):  # type: ignore[misc]
    """A connection with TLS. The SSL context makes it from a plain socket.

    Python limits the waits of this connection. If the kernel limited the waits, OpenSSL would treat a timeout as a
    request to repeat the call.
    """

    def _set_timeout(self, seconds: float) -> None:
        if self.gettimeout() != seconds:
            self.settimeout(seconds)
