"""Check the environment variables about the network: allowed and denied networks, proxy and CA certificates.

A worker checks the variables when it starts. A command checks them before it starts workers with the same environment.
So an error is reported at once, with the name of its variable. The modules for a variable are imported only if the
variable is set.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from config import SettingsError
from config.settings import settings

if TYPE_CHECKING:
    from tasks.download.guard import Guard
    from tasks.download.proxy import Proxy


def guard(allow: Iterable[str] | None = None) -> Guard:
    """Return the guard with the operator's lists; ``allow`` replaces the list of allowed networks.

    Raises:
        SettingsError: an entry is neither a network nor a host name.
    """
    from tasks.download.guard import Guard, rules

    lists = {"ALLOW": settings().allow_networks if allow is None else tuple(allow), "DENY": settings().deny_networks}
    for name, entries in lists.items():
        try:
            rules(entries)
        except ValueError as error:
            raise SettingsError(f"IMAGEFLEET_{name}_NETWORKS: {error}") from error
    return Guard(lists["ALLOW"], lists["DENY"])


def proxy() -> Proxy | None:
    """Return the operator's proxy, or None.

    Raises:
        SettingsError: the proxy's URL is invalid, or the proxy's password file can't be read. The message quotes no
            part of the URL.
    """
    url = settings().proxy_url
    if url is None:
        return None
    from tasks.download.proxy import Proxy

    try:
        return Proxy.parse(url)
    except ValueError as error:
        raise SettingsError(f"IMAGEFLEET_PROXY: {error}") from error


def certificates() -> Path | None:
    """Return the file of CA certificates to use instead of the default certificates; None if no such file is set.

    Raises:
        SettingsError: the file has no certificates, or can't be read.
    """
    file = settings().ca_bundle
    try:
        if file is not None:
            ssl.create_default_context(cafile=str(file))
    except OSError as error:
        raise SettingsError(f"IMAGEFLEET_CA_BUNDLE: {file} can't be used: {error.strerror or error}") from error
    return file


#: The check for each group of variables. A check runs if any variable of its group is set.
_CHECKS: Mapping[tuple[str, ...], Callable[[], object]] = {
    ("allow_networks",): guard,
    ("deny_networks",): lambda: guard(()),
    ("proxy", "proxy_password_file"): proxy,
    ("ca_bundle",): certificates,
}


def configured_variables() -> list[str]:
    """Return the names of the network variables that are set."""
    return [f"IMAGEFLEET_{name.upper()}" for names in _CHECKS for name in names if getattr(settings(), name)]


def validate() -> list[SettingsError]:
    """Return all errors that would keep a worker from starting in this environment; an empty list if there are none.

    Raises:
        SettingsError: a variable has an invalid form, so no setting can be read. The invalid variable may be any
            IMAGEFLEET_ variable.
    """
    found: dict[str, SettingsError] = {}
    for names, check in _CHECKS.items():
        if any(getattr(settings(), name) for name in names):
            try:
                check()
            except SettingsError as error:
                found[str(error)] = error
    return list(found.values())
