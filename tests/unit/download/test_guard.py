"""The guard checks addresses, not names. The guard opens no connection that the operator's policy denies."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.download.guard import BAD_PORTS, Guard, Rule
from tasks.download.ip_addresses import embedded_ipv4, is_public
from tasks.errors import BlockedAddressError, ConnectError, DnsError, DnsUnavailableError, FetchTimeoutError

_PUBLIC = {
    "IPv4": "93.184.215.14",
    "another IPv4": "1.1.1.1",
    "IPv6": "2606:4700:4700::1111",
    "last IPv6": "3ffe:ffff::1",
}
_NOT_PUBLIC = {
    "loopback": "127.0.0.1",
    "end of loopback": "127.255.0.9",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private 10": "10.1.2.3",
    "private 172.16": "172.16.0.1",
    "private 192.168": "192.168.1.1",
    "carrier NAT": "100.64.0.1",
    "end of carrier NAT": "100.127.255.254",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "IETF assignments": "192.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "global multicast": "233.252.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "unique local": "fd12:3456::1",
    "metadata over IPv6": "fd00:ec2::254",
    "IPv6 link-local": "fe80::1",
    "scope id": "fe80::1%eth0",
    "public with a scope id": "2606:4700:4700::1111%1",
    "site-local": "fec0::1",
    "IPv6 multicast": "ff02::1",
    "global IPv6 multicast": "ff0e::1",
    "IPv6 documentation": "2001:db8::1",
    "discard": "100::1",
    "new IPv6 documentation": "3fff::1",
    "unallocated IPv6": "4000::1",
    "segments": "5f00::1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "6to4 relay": "192.88.99.1",
    "AS112": "192.31.196.1",
    "AMT": "192.52.193.1",
    "mapped public": "::ffff:8.8.8.8",
    "compatible public": "::8.8.8.8",
    "translated public": "::ffff:0:8.8.8.8",
    "NAT64 of public": "64:ff9b::8.8.8.8",
    "6to4 of public": "2002:808:808::1",
    "Teredo of public": "2001:0:808:808:0:0:f7f7:f7f7",
    "ISATAP of public": "2606:4700::5efe:8.8.8.8",
    "ISATAP of loopback": "2606:4700::200:5efe:7f00:1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:169.254.169.254",
    "compatible": "::127.0.0.1",
    "NAT64 of loopback": "64:ff9b::127.0.0.1",
    "NAT64 of metadata": "64:ff9b::169.254.169.254",
    "local NAT64": "64:ff9b:1::7f00:1",
    "6to4 of private": "2002:a00:1::1",
    "6to4 of loopback": "2002:7f00:1::",
    # A Teredo address holds the client's address in inverted bits.
    "Teredo of loopback": "2001:0:808:808:0:0:80ff:fffe",
    "Teredo of private": "2001:0:808:808:0:0:f5ff:fffe",
}
_RULES = {
    "network": ("10.0.0.0/8", "10.0.0.0/8", None, None),
    "network with a port": ("10.0.0.0/8:8080", "10.0.0.0/8", None, 8080),
    "network with host bits": ("10.1.2.3/8", "10.0.0.0/8", None, None),
    "address": ("127.0.0.1", "127.0.0.1/32", None, None),
    "address with a port": ("127.0.0.1:8765", "127.0.0.1/32", None, 8765),
    "IPv6": ("::1", "::1/128", None, None),
    "IPv6 network": ("fd00::/8", "fd00::/8", None, None),
    "IPv6 in brackets": ("[::1]", "::1/128", None, None),
    "IPv6 with a port": ("[::1]:8080", "::1/128", None, 8080),
    "IPv6 network with a port": ("[fd00::/8]:80", "fd00::/8", None, 80),
    "name": ("images.internal", None, "images.internal", None),
    "name with a port": ("Images.Internal.:81", None, "images.internal", 81),
}
_INVALID_RULES = {
    "empty": "",
    "mask too long": "10.0.0.0/33",
    "port that is not a number": "10.0.0.1:http",
    "empty port": "images.internal:",
    "path": "images.internal/8",
    "invalid IPv6": "fd00::g",
    "text after the brackets": "[::1]8080",
    "unclosed bracket": "[::1",
    "address with too many parts": "10.0.0.0.1",
    "address out of range": "10.0.0.300",
    "port out of range": "10.0.0.1:99999",
}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a socket that listens on 127.0.0.1.

    The socket's accept does not block, so tests can see whether a client connected.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def resolver_reply(*addresses: str) -> list[tuple[Any, ...]]:
    """Return a resolver's reply with these addresses."""
    return [
        (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
        for address in addresses
    ]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str, port: int = 80) -> None:
    """Let every name resolve to these addresses."""
    found = [(*answer[:4], (answer[4][0], port)) for answer in resolver_reply(*addresses)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize("address", _PUBLIC.values(), ids=_PUBLIC)
def test_public_address(address: str) -> None:
    """The guard allows a connection to a public address."""
    assert is_public(ipaddress.ip_address(address))
    assert Guard().permits("a.example", ipaddress.ip_address(address), 80)


@pytest.mark.parametrize("address", _NOT_PUBLIC.values(), ids=_NOT_PUBLIC)
def test_non_public_address(address: str) -> None:
    """An address of this machine or of a private network is refused, in whatever form it is embedded."""
    assert not is_public(ipaddress.ip_address(address))
    assert not Guard().permits("a.example", ipaddress.ip_address(address), 80)


_EMBEDDINGS: dict[str, Callable[[int], int]] = {
    "mapped": lambda inner: 0xFFFF << 32 | inner,
    "translated": lambda inner: 0xFFFF << 48 | inner,
    "NAT64": lambda inner: 0x64FF9B << 96 | inner,
    "local NAT64": lambda inner: 0x64FF9B0001 << 80 | inner,
    "local NAT64 of 48 bits": lambda inner: 0x64FF9B0001 << 80 | inner >> 16 << 64 | (inner & 0xFFFF) << 40,
    "6to4": lambda inner: 0x2002 << 112 | inner << 80 | 1,
    "Teredo client": lambda inner: 0x20010000 << 96 | 0x08080808 << 64 | inner ^ 0xFFFFFFFF,
    "Teredo server": lambda inner: 0x20010000 << 96 | inner << 64 | 0xF7F7F7F7,
    "ISATAP": lambda inner: 0x26064700 << 96 | 0x5EFE << 32 | inner,
    "ISATAP, unique": lambda inner: 0x26064700 << 96 | 0x02005EFE << 32 | inner,
}


@pytest.mark.parametrize("embedding", _EMBEDDINGS.values(), ids=_EMBEDDINGS)
@given(st.ip_addresses(v=4))
@example(ipaddress.IPv4Address("127.0.0.1"))
@example(ipaddress.IPv4Address("169.254.169.254"))
@example(ipaddress.IPv4Address("8.8.8.8"))
def test_embedded_ipv4_address_is_checked(embedding: Callable[[int], int], inner: ipaddress.IPv4Address) -> None:
    """An IPv6 address that embeds an IPv4 address is refused.

    If a rule allows the IPv6 address, the embedded IPv4 address is checked.
    """
    wrapped = ipaddress.IPv6Address(embedding(int(inner)))
    assert not is_public(wrapped)
    assert inner in embedded_ipv4(wrapped)
    assert not Guard().permits("a.example", wrapped, 80)
    assert Guard(["::/0"]).permits("a.example", wrapped, 80) <= is_public(inner)
    assert not Guard(["::/0", "0.0.0.0/0"], [str(inner)]).permits("a.example", wrapped, 80)


def test_allowed_nat64_prefix() -> None:
    """An operator who reaches IPv4 only through NAT64 can allow the NAT64 prefix. Private addresses stay refused."""
    guard = Guard(["64:ff9b::/96"])
    assert guard.permits("a.example", ipaddress.ip_address("64:ff9b::8.8.8.8"), 80)
    assert not guard.permits("a.example", ipaddress.ip_address("64:ff9b::10.0.0.1"), 80)


@given(st.ip_addresses())
def test_pythons_special_addresses_are_not_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Our table has every special address range that this Python knows."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(address)


@pytest.mark.parametrize("port", sorted(BAD_PORTS - {0}))
def test_bad_port_is_refused(port: int) -> None:
    """A port that browsers block is refused at every address, unless a rule names the port itself."""
    public, inside = ipaddress.ip_address("1.1.1.1"), ipaddress.ip_address("10.0.0.1")
    guard = Guard(["10.0.0.0/8", "0.0.0.0/0"])
    assert not guard.permits("a.example", public, port)
    assert not guard.permits("a.example", inside, port)
    named = Guard([f"10.0.0.0/8:{port}"])
    assert named.permits("a.example", inside, port)
    assert not named.permits("a.example", public, port)


def test_number_of_bad_ports() -> None:
    """Our list of blocked ports is as long as the list in the Fetch Standard."""
    assert len(BAD_PORTS) == 83


@pytest.mark.parametrize(
    ("denial", "host", "address", "port", "permitted"),
    [
        ("1.1.1.0/24", "a.example", "1.1.1.1", 80, False),
        ("1.1.1.0/24", "a.example", "1.1.2.1", 80, True),
        ("1.1.1.0/24:81", "a.example", "1.1.1.1", 80, True),
        ("1.1.1.0/24:81", "a.example", "1.1.1.1", 81, False),
        ("a.example", "a.example", "1.1.1.1", 80, False),
        ("a.example", "b.a.example.", "1.1.1.1", 80, False),
        ("a.example", "ba.example", "1.1.1.1", 80, True),
        ("a.example:81", "b.a.example", "1.1.1.1", 80, True),
        ("10.0.0.0/8", "a.example", "10.0.0.1", 80, False),
        ("::/0", "a.example", "2606:4700:4700::1111", 80, False),
    ],
)
def test_denial_wins(denial: str, host: str, address: str, port: int, permitted: bool) -> None:
    """A denied network, or a denied name with its subdomains, is refused even if it is public or allowed."""
    guard = Guard(["10.0.0.0/8", "a.example", "b.a.example"], [denial])
    assert guard.permits(host, ipaddress.ip_address(address), port) is permitted


def test_denial_names_its_variable() -> None:
    """The message names the variable with the rule."""
    with pytest.raises(BlockedAddressError, match=r"IMAGEFLEET_DENY_NETWORKS"):
        Guard(["127.0.0.1"], ["127.0.0.0/8"]).connect("127.0.0.1", 80, 1.0)


@pytest.mark.parametrize(("entry", "network", "name", "port"), _RULES.values(), ids=_RULES)
def test_rule_is_parsed(entry: str, network: str | None, name: str | None, port: int | None) -> None:
    """A rule is a network, an address or a name, with or without a port."""
    expected = None if network is None else ipaddress.ip_network(network)
    assert Rule.parse(entry) == Rule(expected, name, port)


@pytest.mark.parametrize("entry", _INVALID_RULES.values(), ids=_INVALID_RULES)
def test_invalid_rule_is_refused(entry: str) -> None:
    """An invalid rule is refused instead of being taken for a name."""
    with pytest.raises(ValueError, match=r"\S"):
        Guard([entry])
    with pytest.raises(ValueError, match=r"\S"):
        Guard([], [entry])


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "permitted"),
    [
        ("10.0.0.0/8", "a.example", "10.9.9.9", 80, True),
        ("10.0.0.0/8", "a.example", "11.0.0.1", 80, False),
        ("10.0.0.0/8:81", "a.example", "10.9.9.9", 80, False),
        ("10.0.0.0/8:80", "a.example", "10.9.9.9", 80, True),
        ("a.example", "a.example", "10.9.9.9", 80, True),
        ("a.example", "a.example.", "10.9.9.9", 80, True),
        ("a.example", "b.a.example", "10.9.9.9", 80, False),
        ("a.example:81", "a.example", "10.9.9.9", 80, False),
        ("0.0.0.0/0", "a.example", "::1", 80, False),
        ("::1", "a.example", "::1", 80, True),
    ],
)
def test_rule_covers(entry: str, host: str, address: str, port: int, permitted: bool) -> None:
    """A rule covers its network or name on its port, and nothing else."""
    covered = Rule.parse(entry).covers(host, ipaddress.ip_address(address), port)
    assert covered is permitted


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f.0.0.1", "2130706433", "::ffff:127.0.0.1"])
def test_blocked_loopback_is_never_connected_to(host: str, listener: socket.socket) -> None:
    """A loopback address in any notation is refused before anything is sent."""
    with pytest.raises(BlockedAddressError, match="IMAGEFLEET_ALLOW_NETWORKS"):
        Guard().connect(host, listener.getsockname()[1], 1.0)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("entry", ["127.0.0.0/8", "127.0.0.1:{port}", "localhost", "localhost:{port}"])
def test_allowed_loopback_is_connected_to(entry: str, listener: socket.socket) -> None:
    """An allowed address is reached even if the name's first address refuses connections."""
    port = listener.getsockname()[1]
    allow = [entry.format(port=port), "::1"]
    with Guard(allow).connect("localhost", port, 1.0) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
        listener.accept()[0].close()


def test_port_that_is_not_allowed_is_blocked(listener: socket.socket) -> None:
    """A rule for one port opens no other port."""
    port = listener.getsockname()[1]
    with pytest.raises(BlockedAddressError):
        Guard([f"127.0.0.1:{port + 1}"]).connect("127.0.0.1", port, 1.0)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("addresses", [("1.1.1.1", "127.0.0.1"), ("127.0.0.1", "1.1.1.1"), ("1.1.1.1", "::1")])
def test_every_resolved_address_is_checked(monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, str]) -> None:
    """A name with one good and one bad address is refused, in either order."""
    resolve_to(monkeypatch, *addresses)
    with pytest.raises(BlockedAddressError, match=r"a\.example \(port 80\) is at (127\.0\.0\.1|::1), which is not a"):
        Guard().resolve("a.example", 80, 1.0)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 6379, r"127\.0\.0\.1 \(port 6379\) is not a public address \("),
        ("::1", 80, r"::1 \(port 80\) is not a public address \("),
        ("localhost", 80, r"localhost \(port 80\) is at 127\.0\.0\.1, which is not a public address \("),
        ("a.example", 25, r"a\.example \(port 25\) is requested on a port that browsers block \(.*=a\.example:25\)$"),
        ("[::1]", 25, r"\[::1\] \(port 25\)"),
    ],
)
def test_refusal_names_the_address(host: str, port: int, message: str) -> None:
    """If the URL has an address, the error names the address once, together with the port."""
    with pytest.raises(BlockedAddressError, match=f"^{message}"):
        Guard().check_host(host, port)


@pytest.mark.parametrize(("host", "port"), [("a.denied.example", 80), ("a.example", 25)])
def test_denied_name_is_not_resolved(monkeypatch: pytest.MonkeyPatch, host: str, port: int) -> None:
    """A denied name, or a name with a denied port, is never sent to a name server, also not ahead of time."""
    asked: list[str] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *_, **__: asked.append(host))
    guard = Guard(deny=["denied.example"])
    assert not guard.look_up_ahead(host, port, lambda: None)
    with pytest.raises(BlockedAddressError):
        guard.resolve(host, port, 5)
    assert asked == []


def test_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """The connection goes to the checked address, even if the name resolves differently a moment later."""
    port = listener.getsockname()[1]
    found = iter([[(*resolver_reply("127.0.0.1")[0][:4], ("127.0.0.1", port))]])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: next(found))
    with Guard(["127.0.0.1"]).connect("a.example", port, 1.0) as connection:
        assert connection.getpeername()[1] == port
    assert next(found, None) is None


@pytest.mark.parametrize(
    ("number", "kind"),
    [(socket.EAI_NONAME, DnsError), (socket.EAI_FAIL, DnsError), (socket.EAI_AGAIN, DnsUnavailableError)],
)
def test_resolver_failures(monkeypatch: pytest.MonkeyPatch, number: int, kind: type[DnsError]) -> None:
    """If a name has no address, the failure is final. If the resolver does not respond, a retry may succeed."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "says the resolver")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DnsError, match="says the resolver") as caught:
        Guard().resolve("a.example", 80, 1.0)
    assert type(caught.value) is kind


def test_silent_resolver_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver has no timeout, but a lookup still ends in time."""
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [never.wait(5)])
    started = time.monotonic()
    with pytest.raises(DnsUnavailableError, match=r"not resolved within 0\.05 s"):
        Guard().resolve("a.example", 80, 0.05)
    never.set()
    assert time.monotonic() - started < 1


def test_overlong_label_is_a_dns_failure() -> None:
    """A name that is too long to look up is an ordinary DNS failure."""
    with pytest.raises(DnsError):
        Guard().resolve("a" * 64 + ".example", 80, 1.0)


def test_refused_connection_names_the_address() -> None:
    """A refused connection names its address and port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectError, match=f"127.0.0.1 port {port}: Connection refused"):
        Guard(["127.0.0.1"]).connect("127.0.0.1", port, 1.0)


def test_expired_time_is_a_timeout() -> None:
    """If no time is left for the first address, the connection times out."""
    with pytest.raises(FetchTimeoutError, match="within 0 s"):
        Guard(["127.0.0.1"]).connect("127.0.0.1", 80, 0.0)


def test_unsupported_address_family_is_skipped(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """If no IPv6 socket can be created, the name's IPv4 address is tried."""

    def opener(family: int, kind: int, protocol: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return socket.socket(family, kind, protocol)

    port = listener.getsockname()[1]
    resolve_to(monkeypatch, "::1", "127.0.0.1", port=port)
    with Guard(["::1", "127.0.0.1"]).connect("a.example", port, 1.0, opener) as connection:
        assert connection.getpeername()[0] == "127.0.0.1"


def test_proxy_with_several_addresses(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """The operator's proxy may be in any network, and is reached even if one of its addresses is dead."""
    port = listener.getsockname()[1]
    resolve_to(monkeypatch, "127.0.0.2", "::1", "127.0.0.1", port=port)
    with Guard().connect_to_proxy("proxy.example", port, 5.0) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)


def test_every_address_is_checked_before_connecting(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """A name that has a denied address is refused, even if another of its addresses would respond first."""
    port = listener.getsockname()[1]
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", port=port)
    with pytest.raises(BlockedAddressError, match=r"127\.0\.0\.2"):
        Guard(["127.0.0.0/8"], ["127.0.0.2"]).connect("a.example", port, 5.0)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_lack_of_descriptors_is_a_failed_connection() -> None:
    """If file descriptors run out, the error is one of our error classes."""

    def opener(*_: int) -> socket.socket:
        raise OSError(24, "Too many open files")

    with pytest.raises(ConnectError, match="Too many open files"):
        Guard(["127.0.0.1"]).connect("127.0.0.1", 80, 1.0, opener)
