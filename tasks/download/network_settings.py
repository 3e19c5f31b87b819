"""How far a worker's operator lets it reach: the parts of the environment that are about the network, checked.

A worker reads them as it starts, and so does a command before it starts workers with the same environment: what is
wrong is told at once, and by its variable. What no variable asks for is not imported.
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
    """Return the guard that judges by the operator's lists; ``allow`` takes the place of what is allowed by them.

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
    """Return the operator's proxy; None for none.

    Raises:
        SettingsError: it can't be used, or the file of its password can't be read. The text quotes no part of its URL.
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
    """Return the file of the certificates that are trusted in place of the usual ones; None for those.

    Raises:
        SettingsError: it holds none, or can't be read.
    """
    file = settings().ca_bundle
    try:
        if file is not None:
            ssl.create_default_context(cafile=str(file))
    except OSError as error:
        raise SettingsError(f"IMAGEFLEET_CA_BUNDLE: {file} can't be used: {error.strerror or error}") from error
    return file


#: What is checked of the variables that are set, each group by itself.
_CHECKS: Mapping[tuple[str, ...], Callable[[], object]] = {
    ("allow_networks",): guard,
    ("deny_networks",): lambda: guard(()),
    ("proxy", "proxy_password_file"): proxy,
    ("ca_bundle",): certificates,
}


def configured_variables() -> list[str]:
    """Return the variables of these that are set."""
    return [f"IMAGEFLEET_{name.upper()}" for names in _CHECKS for name in names if getattr(settings(), name)]


def validate() -> list[SettingsError]:
    """Return what no worker with this environment could start with; nothing where all of it can be used.

    Raises:
        SettingsError: a variable, of these or of others, does not even have the form that it should.
    """
    found: dict[str, SettingsError] = {}
    for names, check in _CHECKS.items():
        if any(getattr(settings(), name) for name in names):
            try:
                check()
            except SettingsError as error:
                found[str(error)] = error
    return list(found.values())
