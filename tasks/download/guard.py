"""Which addresses may be connected to; decided on the address itself, when the socket is opened.

A name is resolved here and nowhere else. Every address of the answer is judged, each time, and sockets are opened only
to addresses that were judged: what the name means a moment later changes nothing. Public addresses are permitted, on
the ports that browsers open; all others only where the worker's operator says so (``IMAGEFLEET_ALLOW_NETWORKS``), and
none that the operator denies (``IMAGEFLEET_DENY_NETWORKS``). No message can widen that.

Where the operator names a proxy, that resolves the names, and what is left to judge is the name itself.

requests-hardened judges addresses too. It lacks a list of denials and one of ports, judges an IPv6 address by what
Python's version knows of it, and opens connections of urllib3's own, which keep no deadline.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from tasks.download.happy_eyeballs import Connector, Opener
from tasks.download.ip_addresses import Address, embedded_ipv4, is_public
from tasks.download.resolver import Resolver
from tasks.errors import BlockedAddressError, ConnectError, DnsError, DnsUnavailableError, FetchTimeoutError
from tasks.file_descriptors import is_exhausted

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
#: Those of other services than the web's, whose servers would read a request as commands of theirs; browsers open none
#: of them (https://fetch.spec.whatwg.org/#port-blocking).
BAD_PORTS = frozenset(
    {
        *(0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104),
        *(109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515),
        *(526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049),
        *(3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080),
    }
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of an operator's list: a network or a host name, and a port or any."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    name: str | None
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Rule:
        """Return the rule that ``10.0.0.0/8``, ``images.internal`` or ``[::1]:8080`` stands for.

        Raises:
            ValueError: the entry is none of these.
        """
        host, port = entry, None
        if entry.startswith("["):
            host, bracket, tail = entry[1:].partition("]")
            if not bracket or (tail and not tail.startswith(":")):
                raise ValueError(f"{entry!r} is not an address in brackets with a port")
            port = tail[1:] or None
        elif entry.count(":") == 1:
            host, _, port = entry.partition(":")
        number = None if port is None else int(port)
        if number is not None and not 0 < number < 65536:
            raise ValueError(f"{port} is not a port")
        try:
            return cls(ipaddress.ip_network(host, strict=False), None, number)
        except ValueError:
            # What is written in digits alone was meant for an address.
            if not _NAME.fullmatch(host) or not re.search("[a-z_-]", host, re.IGNORECASE):
                raise
            return cls(None, host.lower().rstrip("."), number)

    def covers(self, host: str, address: Address | None, port: int) -> bool:
        """Tell whether this entry speaks of a connection; without an address, by its name alone."""
        return self._covers_address(address, port) or (self.name == host.rstrip(".") and self.port in (None, port))

    def covers_subdomain(self, host: str, address: Address | None, port: int) -> bool:
        """Tell whether this entry speaks of a connection, or names a domain that the host is in."""
        return self.covers(host, address, port) or (
            self.name is not None and host.rstrip(".").endswith(f".{self.name}") and self.port in (None, port)
        )

    def _covers_address(self, address: Address | None, port: int) -> bool:
        network = self.network
        return (
            network is not None
            and address is not None
            and self.port in (None, port)
            and address.version == network.version
            and address in network
        )


def rules(entries: Iterable[str]) -> tuple[Rule, ...]:
    """Return the rules of an operator's list.

    Raises:
        ValueError: an entry is neither a network nor a host name.
    """
    return tuple(Rule.parse(entry) for entry in entries)


class Guard:
    """Opens sockets, to permitted addresses only."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Take the operator's lists.

        Args:
            allow: what ``IMAGEFLEET_ALLOW_NETWORKS`` holds: networks and host names, each with a port or without.
            deny: what ``IMAGEFLEET_DENY_NETWORKS`` holds, in the same form. A name stands for those below it, too. A
                denial wins over an allowance.

        Raises:
            ValueError: an entry is neither a network nor a host name.
        """
        self._allowances = rules(allow)
        self._denials = rules(deny)
        self._resolver = Resolver()
        self._connector = Connector()

    def permits(self, host: str, address: Address, port: int) -> bool:
        """Tell whether a connection to this address, found for this host name, is permitted."""
        return self._denial_reason(host, address, port) is None

    def check_host(self, host: str, port: int) -> None:
        """Refuse a host that a proxy resolves, by what can be seen of it here.

        Raises:
            BlockedAddressError: its port is not permitted, or its name is denied, or is an address that is not
                permitted.
        """
        address = _address_literal(host)
        if objection := self._denial_reason(host, address, port):
            raise _blocked_address_error(host, address, port, objection)

    def _denial_reason(self, host: str, address: Address | None, port: int) -> str | None:
        """Return what is to be said of a connection that is not permitted.

        None if it is permitted, as far as can be said without an address.
        """
        if any(rule.covers_subdomain(host, address, port) for rule in self._denials):
            return "is denied here (IMAGEFLEET_DENY_NETWORKS)"
        allowing = [rule for rule in self._allowances if rule.covers(host, address, port)]
        if port in BAD_PORTS and all(rule.port is None for rule in allowing):
            return (
                "is requested on a port that browsers block "
                f"(a worker's operator can allow it with IMAGEFLEET_ALLOW_NETWORKS={_allow_list_entry(host, port)})"
            )
        if address is None:
            return None
        if not allowing and not is_public(address):
            return "is not a public address (a worker's operator can allow it with IMAGEFLEET_ALLOW_NETWORKS)"
        # Who allows a translator allows none of what is hidden behind it.
        reasons = (self._denial_reason(host, inner, port) for inner in embedded_ipv4(address))
        return next((why for why in reasons if why is not None), None)

    def resolve(self, host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
        """Return the socket addresses of a host, as `socket.getaddrinfo` does, once all of them are permitted.

        Raises:
            BlockedAddressError: one of the addresses is not permitted on this port.
            DnsError: the name has no address, or none came within ``timeout`` seconds.
        """
        answers = self._look_up(host, port, timeout)
        for answer in answers:
            address = ipaddress.ip_address(answer[4][0])
            if objection := self._denial_reason(host, address, port):
                raise _blocked_address_error(host, address, port, objection)
        return answers

    def _look_up(self, host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
        try:
            return list(self._resolver.look_up(host, port, timeout))
        except socket.gaierror as error:
            kind = DnsUnavailableError if error.errno == socket.EAI_AGAIN else DnsError
            raise kind(f"the host name {host} can't be resolved: {error.strerror}") from error
        except UnicodeError as error:
            raise DnsError(f"the host name {host} can't be resolved: {error}") from error

    def connect(
        self,
        host: str,
        port: int,
        timeout: float,
        opener: Opener = socket.socket,
    ) -> socket.socket:
        """Return a socket connected to the first address of the host that answers, within ``timeout`` seconds.

        Raises:
            BlockedAddressError, DnsError, ConnectError, FetchTimeoutError: and nothing else.
        """
        return self._connect(self.resolve, host, port, timeout, opener)

    def connect_to_proxy(
        self,
        host: str,
        port: int,
        timeout: float,
        opener: Opener = socket.socket,
    ) -> Any:
        """Return what ``opener`` makes, connected to the operator's proxy: who named it could allow its address too.

        Raises:
            ConnectError, FetchTimeoutError: and nothing else.
        """
        try:
            return self._connect(self._look_up, host, port, timeout, opener)
        except (FetchTimeoutError, ConnectError, DnsError) as error:
            kind = FetchTimeoutError if isinstance(error, FetchTimeoutError) else ConnectError
            failure = kind(f"the proxy can't be reached: {error}")
            failure.is_worker_fault = True
            raise failure from error

    def _connect(
        self,
        find: Callable[[str, int, float], list[tuple[Any, ...]]],
        host: str,
        port: int,
        timeout: float,
        opener: Opener,
    ) -> socket.socket:
        """Return a socket connected to one of the addresses that ``find`` gives."""
        ends = monotonic() + timeout
        try:
            return self._connector.connect(host, port, find(host, port, timeout), ends, opener)
        except OSError as error:
            if not is_exhausted(error):
                self._resolver.forget(host, port)
            if isinstance(error, TimeoutError):
                raise FetchTimeoutError(f"{host} port {port} did not answer within {timeout:g} s") from error
            raise ConnectError(f"{host} port {port}: {error.strerror or error}") from error


def _blocked_address_error(host: str, address: Address | None, port: int, reason: str) -> BlockedAddressError:
    """Return what it means that a connection is not permitted; an address that the URL writes out is named once."""
    found = "" if address is None or str(address) == host else f" is at {address}, which"
    return BlockedAddressError(f"{host} (port {port}){found} {reason}")


def _allow_list_entry(host: str, port: int) -> str:
    """Return the entry of an operator's list that stands for a host's port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address_literal(host: str) -> Address | None:
    """Return the address that a host is without any look-up: one that is written out, or a name that means loopback."""
    name = host.rstrip(".")
    # https://www.rfc-editor.org/rfc/rfc6761#section-6.3
    if name == "localhost" or name.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
