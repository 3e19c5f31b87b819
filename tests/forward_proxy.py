"""A small HTTP proxy on loopback that forwards http requests, opens tunnels, and records its requests.

The proxy knows only a few hosts.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from tests.unit.conftest import Canned, always, response


class ForwardProxy(Canned):
    """A proxy that resolves names itself. The proxy answers 502 for an unknown host."""

    def __init__(self, hosts: Mapping[str, int], credentials: str | None = None) -> None:
        """Take the known hosts and the required credentials. ``hosts`` maps ``name:port`` to a port on 127.0.0.1."""
        super().__init__(always())
        self._hosts, self._credentials = hosts, credentials

    def _converse(self, client: socket.socket) -> None:
        while head := _head(client):
            self.requests.append(head)
            method, target, _ = head.decode().split("\r\n")[0].split(" ")
            place = target if method == "CONNECT" else _authority(target)
            if (
                self._credentials is not None
                and f"\r\nProxy-Authorization: {self._credentials}\r\n" not in head.decode()
            ):
                client.sendall(response(b"no", "407 Proxy Authentication Required", "Proxy-Authenticate: Basic"))
            elif place not in self._hosts:
                client.sendall(response(b"unknown", "502 Bad Gateway"))
            else:
                with socket.create_connection(("127.0.0.1", self._hosts[place]), 5.0) as host:
                    if method == "CONNECT":
                        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        _relay(client, host)
                        return
                    host.sendall(_origin_form(head))
                    client.sendall(_whole(host))


def _authority(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 80}"


def _origin_form(head: bytes) -> bytes:
    """Return the head to forward. Its request line has only the path and query, and it has no fields for the proxy."""
    first, *lines = head.decode().split("\r\n")
    method, url, version = first.split(" ")
    target = url.partition("://")[2].partition("/")[2]
    lines = [line for line in lines if not line.startswith("Proxy-Authorization:")]
    return "\r\n".join([f"{method} /{target} {version}", *lines]).encode()


def _head(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        block = connection.recv(1)
        if not block:
            return b""
        received += block
    return received


def _whole(host: socket.socket) -> bytes:
    """Return a response with a Content-Length."""
    head = _head(host)
    size = int(next(line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")))
    body = b""
    while len(body) < size and (block := host.recv(size - len(body))):
        body += block
    return head + body


def _relay(client: socket.socket, host: socket.socket) -> None:
    """Relay the bytes of both directions until both have ended."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                sink.sendall(block)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=pump, args=(host, client))
    back.start()
    pump(client, host)
    back.join()
