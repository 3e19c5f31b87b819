"""Decide which addresses a worker may connect to. Each address is checked when a socket to it is opened.

Names are resolved only here. Before each connection, every address in the resolver's answer is checked. Sockets are
opened only to checked addresses, so a later change of the DNS record has no effect. Public addresses are permitted, on
the ports that browsers open. Other addresses are permitted only if the worker's operator allows them
(``IMAGEFLEET_ALLOW_NETWORKS``). Addresses that the operator denies (``IMAGEFLEET_DENY_NETWORKS``) are never permitted.
No message from Redis can widen these rules.

With a proxy, the proxy resolves the names, so only the names and ports are checked here.

The existing library requests-hardened checks addresses, too, but has no lists of denied networks and ports. In that
library, the version of Python decides whether an IPv6 address counts as public. The library also opens urllib3's own
connections, which have no deadline.
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
from tasks.throttle_options import Target

#: Timeout of a look-up that only finds the key of a limit per address, in seconds.
_ADDRESS_TIMEOUT_SECONDS = 5.0
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
#: Ports of services other than the web. A server of such a service could read an HTTP request as commands, so browsers
#: block these ports (https://fetch.spec.whatwg.org/#port-blocking).
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
    """One entry of an operator's list: a network or a host name, for one port or all ports."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    name: str | None
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Rule:
        """Return the rule for an entry such as ``10.0.0.0/8``, ``images.internal`` or ``[::1]:8080``.

        Raises:
            ValueError: the entry has another form.
        """
        host, port = entry, None
        if entry.startswith("["):
            host, bracket, tail = entry[1:].partition("]")
            if not bracket or (tail and not tail.startswith(":")):
                raise ValueError(f"{entry!r} does not have the form [ADDRESS] or [ADDRESS]:PORT")
            port = tail[1:] or None
        elif entry.count(":") == 1:
            host, _, port = entry.partition(":")
        number = None if port is None else int(port)
        if number is not None and not 0 < number < 65536:
            raise ValueError(f"{port} is not a port number from 1 to 65535")
        try:
            return cls(ipaddress.ip_network(host, strict=False), None, number)
        except ValueError:
            # An entry with only digits and dots is an invalid address, not a name.
            if not _NAME.fullmatch(host) or not re.search("[a-z_-]", host, re.IGNORECASE):
                raise
            return cls(None, host.lower().rstrip("."), number)

    def covers(self, host: str, address: Address | None, port: int) -> bool:
        """Tell whether this entry applies to a connection. If no address is given, compare only the name and port."""
        return self._covers_address(address, port) or (self.name == host.rstrip(".") and self.port in (None, port))

    def covers_subdomain(self, host: str, address: Address | None, port: int) -> bool:
        """Tell whether this entry applies to a connection, or names a parent domain of the host."""
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
    """Open sockets, to permitted addresses only."""

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Parse the operator's lists.

        Args:
            allow: the entries of ``IMAGEFLEET_ALLOW_NETWORKS``: networks and host names, each with an optional port.
            deny: the entries of ``IMAGEFLEET_DENY_NETWORKS``, in the same form. A denied host name also denies its
                subdomains. Denials override allowances.

        Raises:
            ValueError: an entry is neither a network nor a host name.
        """
        self._allowances = rules(allow)
        self._denials = rules(deny)
        self._resolver = Resolver()
        self._connector = Connector()

    def permits(self, host: str, address: Address, port: int) -> bool:
        """Tell whether a connection to this address of the host is permitted."""
        return self._denial_reason(host, address, port) is None

    def check_host(self, host: str, port: int) -> None:
        """Check a host that the proxy will resolve, by its name and port.

        Raises:
            BlockedAddressError: the port is not permitted, the name is denied, or the host is an IP address that is not
                permitted.
        """
        address = _address_literal(host)
        if reason := self._denial_reason(host, address, port):
            raise _blocked_address_error(host, address, port, reason)

    def _denial_reason(self, host: str, address: Address | None, port: int) -> str | None:
        """Return why a connection is not permitted; None if the connection is permitted.

        If no address is given, only the name and the port are checked.
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
        # If the IPv6 address of a translator (such as NAT64) is allowed, the IPv4 addresses behind the translator are
        # still not allowed.
        reasons = (self._denial_reason(host, inner, port) for inner in embedded_ipv4(address))
        return next((why for why in reasons if why is not None), None)

    def look_up_ahead(self, host: str, port: int, on_answer: Callable[[], object]) -> bool:
        """Start to resolve a name before a connection needs it, as `Resolver.look_up_ahead` does.

        If the name or the port is not permitted, the result is False, because the name is not resolved at all.
        """
        if self._denial_reason(host, None, port) is not None:
            return False
        return self._resolver.look_up_ahead(host, on_answer)

    def resolve(self, host: str, port: int, timeout: float) -> list[tuple[Any, ...]]:
        """Return a host's addresses as `socket.getaddrinfo` does. Every address must be permitted.

        Raises:
            BlockedAddressError: one of the addresses is not permitted on this port.
            DnsError: the name has no address, or was not resolved within ``timeout`` seconds.
        """
        # A denied name is not sent to a name server.
        if reason := self._denial_reason(host, None, port):
            raise _blocked_address_error(host, None, port, reason)
        answers = self._look_up(host, port, timeout)
        for answer in answers:
            address = ipaddress.ip_address(answer[4][0])
            if reason := self._denial_reason(host, address, port):
                raise _blocked_address_error(host, address, port, reason)
        return answers

    def address_of(self, target: Target) -> str:
        """Return an address of a request's host; the same answer of the resolver always gives the same address.

        Raises:
            BlockedAddressError, DnsError: as `resolve`.
        """
        return min(str(answer[4][0]) for answer in self.resolve(target.host, target.port, _ADDRESS_TIMEOUT_SECONDS))

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
        """Return a socket connected to the host's first address that answers within ``timeout`` seconds.

        Raises:
            BlockedAddressError, DnsError, ConnectError, FetchTimeoutError: no other exception is raised.
        """
        return self._connect(self.resolve, host, port, timeout, opener)

    def connect_to_proxy(
        self,
        host: str,
        port: int,
        timeout: float,
        opener: Opener = socket.socket,
    ) -> Any:
        """Return a socket created by ``opener`` and connected to the operator's proxy.

        The proxy's address is not checked, because the operator who sets the proxy could also allow its address.

        Raises:
            ConnectError, FetchTimeoutError: no other exception is raised.
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
        """Return a socket connected to one of the addresses returned by ``find``."""
        ends = monotonic() + timeout
        try:
            return self._connector.connect(host, port, find(host, port, timeout), ends, opener)
        except OSError as error:
            if not is_exhausted(error):
                self._resolver.forget(host)
            if isinstance(error, TimeoutError):
                raise FetchTimeoutError(f"{host} port {port} did not answer within {timeout:g} s") from error
            raise ConnectError(f"{host} port {port}: {error.strerror or error}") from error


def _blocked_address_error(host: str, address: Address | None, port: int, reason: str) -> BlockedAddressError:
    """Return the error for a connection that is not permitted.

    If the host is itself an address, the message names it only once.
    """
    found = "" if address is None or str(address) == host else f" is at {address}, which"
    return BlockedAddressError(f"{host} (port {port}){found} {reason}")


def _allow_list_entry(host: str, port: int) -> str:
    """Return the entry of an operator's list for a host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address_literal(host: str) -> Address | None:
    """Return a host's address if the host is an IP address or a loopback name; None if the host needs DNS."""
    name = host.rstrip(".")
    # https://www.rfc-editor.org/rfc/rfc6761#section-6.3
    if name == "localhost" or name.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
