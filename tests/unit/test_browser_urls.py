"""URLs are read as browsers read them: as web-platform-tests say, but for the deviations that are named here."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from urllib3.connectionpool import HTTPConnectionPool

from tasks.errors import InvalidUrl
from tasks.urls import join, parse

_DATA = json.loads((Path(__file__).parents[1] / "wpt" / "urls.json").read_text(encoding="utf-8"))
_HOSTS = {case["input"]: case["output"] for case in _DATA["hosts"]}
#: What we refuse though a browser reads it, by what the message says; each with how many cases have it, and the reason.
_REFUSED = {
    # Only http and https are fetched.
    "is not fetched": 35,
    # The character stands for bytes that could not be decoded: the URL would be another one than was meant.
    "not UTF-8": 2,
    # Nothing listens there.
    "the port is 0": 2,
    # The DNS holds no such name.
    "a part of it is empty": 3,
}
#: What we read though browsers refused it in 2023: ada-url takes a label of ASCII as it is, also where it is no
#: Punycode. It can look like nothing else, and the DNS holds no such name.
_TAKEN = 7


def expected(href: str) -> str:
    """Return the form of ours that a browser's has: without userinfo, which goes into a field, and fragment."""
    scheme, _, rest = href.partition("#")[0].partition("://")
    authority, slash, target = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{target}"


def found(case: dict[str, str | None]) -> str:
    """Return what we read in a case: in its base, if it has one, as a redirect of a server."""
    text, base = case["input"] or "", case["base"]
    if base is None:
        return parse(text).text
    # A field of an answer is read as Latin-1.
    return join(parse(base), text.encode("utf-8", "surrogatepass").decode("latin-1")).text


def is_in_dns(host: str) -> bool:
    """Tell whether a name has the lengths that the DNS can hold."""
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(0 < len(label) <= 63 for label in labels)


def refused(case: dict[str, str | None]) -> str | None:
    """Return what is said of a URL that browsers read, and we don't; None for others."""
    href, text = case["href"], case["input"] or ""
    if href is None:
        return None
    if not href.startswith(("http://", "https://")):
        return "is not fetched"
    if "\ufffd" in text or "\ud800" in text:
        return "not UTF-8"
    host = expected(href).split("/")[2]
    if host.endswith(":0"):
        return "the port is 0"
    return None if is_in_dns(host.partition(":")[0]) or host.startswith("[") else "a part of it is empty"


def taken(case: dict[str, str | None]) -> bool:
    """Tell whether a URL is one that browsers refused, and we read."""
    return case["href"] is None and "xn--" in (case["input"] or "").lower() and (case["input"] or "").isascii()


@pytest.mark.parametrize("case", _DATA["urls"], ids=lambda case: ascii((case["input"], case["base"])))
def test_url_is_read_as_browsers_read_it(case: dict[str, str | None]) -> None:
    """Each URL of web-platform-tests, in a list or as a redirect, has the form that browsers give it, or is refused."""
    message = refused(case)
    if taken(case):
        assert parse(found(case)).text == found(case)
    elif message is not None or case["href"] is None:
        with pytest.raises(InvalidUrl, match=message):
            found(case)
    else:
        assert found(case) == expected(case["href"])


def test_deviations_are_those_that_are_named() -> None:
    """All other cases are read as browsers read them."""
    kinds = [kind for case in _DATA["urls"] if (kind := refused(case))]
    assert {kind: kinds.count(kind) for kind in _REFUSED} == _REFUSED
    assert set(kinds) == set(_REFUSED)
    assert sum(map(taken, _DATA["urls"])) == _TAKEN


@pytest.mark.parametrize(("name", "host"), _HOSTS.items(), ids=[ascii(name)[:40] for name in _HOSTS])
def test_host_name_becomes_ascii_as_in_browsers(name: str, host: str | None) -> None:
    """Each name of web-platform-tests becomes what UTS 46 makes of it, or is refused."""
    if host is None and name.isascii() and "xn--" in name:
        # As above.
        assert parse(f"https://{name}/x").host == name
    elif host is None or not is_in_dns(host):
        with pytest.raises(InvalidUrl):
            parse(f"https://{name}/x")
    else:
        assert parse(f"https://{name}/x").host == host


def test_connection_has_the_host_that_is_judged() -> None:
    """No layer below reads a host in another way: the pool, and so the connection, has it as it was parsed."""
    hosts = set()
    for case in _DATA["urls"]:
        with suppress(InvalidUrl):
            hosts.add(parse(found(case)).host)
    assert len(hosts) > 50
    assert {host: HTTPConnectionPool(host).host for host in hosts} == {host: host for host in hosts}
