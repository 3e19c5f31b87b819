"""Which addresses may be connected to; decided on the address itself, when the socket is opened.

A name is resolved here and nowhere else, every address of the answer is judged, each time, and the socket is opened to
an address that was judged: what the name means a moment later changes nothing. Public addresses are permitted; all
others only where the worker's operator says so (``IMAGEFLEET_ALLOW_NETWORKS``). No message can widen that.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tasks.errors import BlockedAddress, ConnectFailed, DnsFailed, DnsUnavailable, TimedOut
from tasks.resolver import Resolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Allowance:
    """One entry of the operator's list: a network or a host name, and a port or any."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    name: str | None
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Allowance:
        """Return the allowance that ``10.0.0.0/8``, ``images.internal`` or ``[::1]:8080`` stands for.

        Raises:
            ValueError: the entry is none of these.
        """
        host, port = entry, None
        if entry.startswith("["):
            host, bracket, tail = entry[1:].partition("]")
            if not bracket or (tail and not tail.startswith(":")):
                raise ValueError(f"{entry!r} is no address in brackets with a port")
            port = tail[1:] or None
        elif entry.count(":") == 1:
            host, _, port = entry.partition(":")
        number = None if port is None else int(port)
        if number is not None and not 0 < number < 65536:
            raise ValueError(f"{port} is no port")
        try:
            return cls(ipaddress.ip_network(host, strict=False), None, number)
        except ValueError:
            # What is written in digits alone was meant for an address.
            if not _NAME.fullmatch(host) or not re.search("[a-z_-]", host, re.IGNORECASE):
                raise
            return cls(None, host.lower().rstrip("."), number)

    def covers(self, host: str, address: Address, port: int) -> bool:
        """Tell whether this entry permits a connection."""
        if self.port is not None and self.port != port:
            return False
        if self.network is None:
            return self.name == host.rstrip(".")
        return address.version == self.network.version and address in self.network


class Guard:
    """Opens sockets, to permitted addresses only."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        """Take the operator's list, as ``IMAGEFLEET_ALLOW_NETWORKS`` holds it.

        Raises:
            ValueError: an entry is neither a network nor a host name.
        """
        self._allowances = tuple(Allowance.parse(entry) for entry in allow)
        self._resolver = Resolver()

    def permits(self, host: str, address: Address, port: int) -> bool:
        """Tell whether a connection to this address, found for this host name, is permitted."""
        return is_public(address) or any(entry.covers(host, address, port) for entry in self._allowances)

    def resolve(self, host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
        """Return the socket addresses of a host, as `socket.getaddrinfo` does, once all of them are permitted.

        Raises:
            BlockedAddress: one of the addresses is not permitted.
            DnsFailed: the name has no address, or none came within ``timeout`` seconds.
        """
        try:
            answers = self._resolver.look_up(host, port, timeout)
        except socket.gaierror as error:
            kind = DnsUnavailable if error.errno == socket.EAI_AGAIN else DnsFailed
            raise kind(f"the host name {host} can't be resolved: {error.strerror}") from error
        except UnicodeError as error:
            raise DnsFailed(f"the host name {host} can't be resolved: {error}") from error
        for answer in answers:
            address = ipaddress.ip_address(answer[4][0])
            if not self.permits(host, address, port):
                raise BlockedAddress(
                    f"{host} is at {address}, which is not a public address "
                    "(a worker's operator can allow it with IMAGEFLEET_ALLOW_NETWORKS)"
                )
        return list(answers)

    def connect(
        self,
        host: str,
        port: int,
        timeout: float,
        opener: Callable[[int, int, int], socket.socket] = socket.socket,
    ) -> socket.socket:
        """Return a socket connected to the host, within ``timeout`` seconds for all its addresses together.

        Raises:
            BlockedAddress, DnsFailed, ConnectFailed, TimedOut: and nothing else.
        """
        ends = monotonic() + timeout
        last: OSError | None = None
        for family, kind, protocol, _, address in self.resolve(host, port, timeout):
            remaining = ends - monotonic()
            if remaining <= 0:
                break
            try:
                connection = opener(family, kind, protocol)
            except OSError as error:
                # This machine may lack the address's family.
                last = error
                continue
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(remaining)
                connection.connect(address)
            except OSError as error:
                connection.close()
                last = error
            else:
                return connection
        self._resolver.forget(host, port)
        if last is None or isinstance(last, TimeoutError):
            raise TimedOut(f"{host} port {port} did not answer within {timeout:g} s") from last
        raise ConnectFailed(f"{host} port {port}: {last.strerror or last}") from last


def is_public(address: Address) -> bool:
    """Tell whether an address is public: not private, local, shared, reserved or multicast, in whatever wrapping.

    The registries are IANA's special-purpose address registries, as `ipaddress` holds them. An IPv4 address inside an
    IPv6 address (mapped, 6to4, Teredo, NAT64) counts as the IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
