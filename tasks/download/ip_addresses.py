"""Tell whether an IP address is public, and find the IPv4 addresses embedded in it. No I/O.

The ranges come from IANA's special-purpose address registries. They are listed here because the ranges in the module
`ipaddress` differ between Python versions.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

#: https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast. The list includes IANA's globally
#: reachable entries, because they are relays and name servers, which have no images.
_SPECIAL_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared, behind a carrier's NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local, with the metadata services of clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
#: The range allocated to networks (https://www.iana.org/assignments/ipv6-address-space). All addresses outside this
#: range are special: loopback, unique local, link-local, site-local, multicast and reserved.
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
#: The special ranges within the range above (https://www.iana.org/assignments/iana-ipv6-special-registry).
_SPECIAL_6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # IETF protocol assignments, including Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
#: 96-bit prefixes followed by an IPv4 address: compatible, mapped, translated, and NAT64 (RFC 6052).
_BEFORE_IPV4 = frozenset(
    int(IPv6Address(prefix)) >> 32 for prefix in ("::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::")
)
_LOCAL_NAT64 = int(IPv6Address("64:ff9b:1::")) >> 80
_TEREDO = int(IPv6Address("2001::")) >> 96
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
_32_BITS = 0xFFFFFFFF


def is_public(address: Address) -> bool:
    """Tell whether an address is an ordinary public address.

    An IPv6 address with an embedded IPv4 address does not count as public, because a tunnel or a translator decides
    where the packets go.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address.scope_id is not None or address not in _UNICAST_6 or embedded_ipv4(address):
        return False
    return not any(address in network for network in _SPECIAL_6)


def embedded_ipv4(address: Address) -> tuple[IPv4Address, ...]:
    """Return an IPv6 address's embedded IPv4 addresses, to which a tunnel or a translator would send packets.

    These forms are known: mapped, compatible, translated, NAT64 (the well-known prefix, and the local prefix of 48 or
    96 bits), 6to4, Teredo (its server and its client) and ISATAP.
    """
    if isinstance(address, IPv4Address):
        return ()
    number = int(address)
    last = number & _32_BITS
    found: list[int] = []
    if number >> 32 in _BEFORE_IPV4:
        # The unspecified address and loopback have the form of compatible addresses, but embed no IPv4 address.
        found = [last] if number > 1 else []
    elif number >> 80 == _LOCAL_NAT64:
        # The length of the translator's prefix is unknown, so both lengths are tried. With a prefix of 48 bits, the
        # byte in the middle of the IPv4 address is skipped.
        found = [(number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF, *([last] if last else [])]
    elif number >> 112 == 0x2002:
        found = [number >> 80 & _32_BITS]
    elif number >> 96 == _TEREDO:
        found = [number >> 64 & _32_BITS, last ^ _32_BITS]
    elif number >> 32 & _32_BITS in _ISATAP:
        found = [last]
    return tuple(IPv4Address(item) for item in found)
