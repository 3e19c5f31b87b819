"""URLs are parsed as web-platform-tests require of browsers, except for the deviations listed here."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from urllib3.connectionpool import HTTPConnectionPool

from tasks.download.urls import join, parse
from tasks.errors import InvalidUrlError

_DATA = json.loads((Path(__file__).parents[2] / "wpt" / "urls.json").read_text(encoding="utf-8"))
_HOSTS = {case["input"]: case["output"] for case in _DATA["hosts"]}
#: URLs that browsers accept and we refuse: the text of our message, the number of cases, and the reason.
_REFUSED = {
    # Only http and https are fetched.
    "is not supported": 35,
    # U+FFFD replaces bytes that could not be decoded, so the URL would not be the one its author meant.
    "not UTF-8": 2,
    # Nothing listens on port 0.
    "the port is 0": 2,
    # The DNS can't hold such a name.
    "a part of it is empty": 3,
}
#: URLs that we accept and browsers refused in 2023. Each URL has an ASCII label that begins with "xn--" but is not
#: valid Punycode. ada-url accepts such a label. The label can't pass for another name, and the DNS holds no such name.
_ACCEPTED_BY_US_ALONE = 7


def browser_form(href: str) -> str:
    """Return a browser's form of the URL without the fragment, and without userinfo, which we send as a header."""
    scheme, _, rest = href.partition("#")[0].partition("://")
    authority, slash, target = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{target}"


def our_form(case: dict[str, str | None]) -> str:
    """Return our form of a case's URL. If the case has a base, parse the URL as a server's redirect."""
    text, base = case["input"] or "", case["base"]
    if base is None:
        return parse(text).text
    # Response headers are decoded as Latin-1.
    return join(parse(base), text.encode("utf-8", "surrogatepass").decode("latin-1")).text


def is_in_dns(host: str) -> bool:
    """Return whether the DNS can hold a host name as long as this one."""
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(0 < len(label) <= 63 for label in labels)


def refusal(case: dict[str, str | None]) -> str | None:
    """Return our message for a URL that browsers accept and we refuse, or None for any other URL."""
    href, text = case["href"], case["input"] or ""
    if href is None:
        return None
    if not href.startswith(("http://", "https://")):
        return "is not supported"
    if "\ufffd" in text or "\ud800" in text:
        return "not UTF-8"
    host = browser_form(href).split("/")[2]
    if host.endswith(":0"):
        return "the port is 0"
    return None if is_in_dns(host.partition(":")[0]) or host.startswith("[") else "a part of it is empty"


def accepted_by_us_alone(case: dict[str, str | None]) -> bool:
    """Return whether browsers refused this URL and we accept it."""
    return case["href"] is None and "xn--" in (case["input"] or "").lower() and (case["input"] or "").isascii()


@pytest.mark.parametrize("case", _DATA["urls"], ids=lambda case: ascii((case["input"], case["base"])))
def test_urls_parse_as_in_browsers(case: dict[str, str | None]) -> None:
    """Each web-platform-tests URL, in a list or as a redirect, gets the form that browsers give it, or is refused."""
    message = refusal(case)
    if accepted_by_us_alone(case):
        assert parse(our_form(case)).text == our_form(case)
    elif message is not None or case["href"] is None:
        with pytest.raises(InvalidUrlError, match=message):
            our_form(case)
    else:
        assert our_form(case) == browser_form(case["href"])


def test_only_listed_deviations_exist() -> None:
    """All other cases are parsed as browsers parse them."""
    kinds = [kind for case in _DATA["urls"] if (kind := refusal(case))]
    assert {kind: kinds.count(kind) for kind in _REFUSED} == _REFUSED
    assert set(kinds) == set(_REFUSED)
    assert sum(map(accepted_by_us_alone, _DATA["urls"])) == _ACCEPTED_BY_US_ALONE


@pytest.mark.parametrize(("name", "host"), _HOSTS.items(), ids=[ascii(name)[:40] for name in _HOSTS])
def test_host_name_becomes_ascii_as_in_browsers(name: str, host: str | None) -> None:
    """Each host name of web-platform-tests is converted as UTS 46 requires, or is refused."""
    if host is None and name.isascii() and "xn--" in name:
        # See _ACCEPTED_BY_US_ALONE.
        assert parse(f"https://{name}/x").host == name
    elif host is None or not is_in_dns(host):
        with pytest.raises(InvalidUrlError):
            parse(f"https://{name}/x")
    else:
        assert parse(f"https://{name}/x").host == host


def test_connection_uses_the_checked_host() -> None:
    """The connection pool and the connection get the parsed host, so no lower layer reads the host differently."""
    hosts = set()
    for case in _DATA["urls"]:
        with suppress(InvalidUrlError):
            hosts.add(parse(our_form(case)).host)
    assert len(hosts) > 50
    assert {host: HTTPConnectionPool(host).host for host in hosts} == {host: host for host in hosts}
