"""Find the key of a request's host: the text that a limit counts for. No I/O of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from tasks.throttle_options import HostScope, Target

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

_DEFAULT_PORTS = {"http": 80, "https": 443}


class HostKeys:
    """Finds the keys of hosts, by name, registrable domain or address."""

    def __init__(self, find_address: Callable[[Target], str]) -> None:
        """Take the function that returns a host's address; it is called only for `HostScope.IP`."""
        self._find_address = find_address

    def key(self, target: Target, scope: HostScope) -> str:
        """Return the key of a request's host.

        The key ends with the port, unless the port is the default of the scheme. So two servers on one machine have
        two keys, but http and https of one site share a key.

        Raises:
            FetchError: raised by the function that finds addresses.
        """
        name = target.host.rstrip(".")
        if scope is HostScope.DOMAIN:
            name = registrable_domain(name)
        elif scope is HostScope.IP:
            name = self._find_address(target)
        return name if _DEFAULT_PORTS.get(target.scheme) == target.port else f"{name}:{target.port}"


@lru_cache(maxsize=10_000)
def registrable_domain(name: str) -> str:
    """Return the part of a host name that its owner registered, such as ``example.co.uk`` for ``a.b.example.co.uk``.

    A name without a registrable domain, and an address, are returned unchanged. The rules are those of the Public
    Suffix List (https://publicsuffix.org), in the version that the library publicsuffixlist contains.
    """
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _public_suffixes().privatesuffix(name) or name
    return name


@cache
def _public_suffixes() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
