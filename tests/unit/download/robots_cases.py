"""Google's published cases for robots.txt, as data.

The cases come from the tests of Google's parser (https://github.com/google/robotstxt) and from the tables in Google's
documentation (https://developers.google.com/search/docs/crawling-indexing/robots/robots_txt), which the library protego
also has as tests. They are rewritten as a table: a file, a robot, and the paths with the expected decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Case(NamedTuple):
    """A robots.txt, and the expected decisions about paths."""

    lines: tuple[str, ...]
    #: By the robot's product token: the allowed paths and the forbidden ones.
    decisions: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]


def _foobot(*lines: str, allowed: tuple[str, ...] = (), denied: tuple[str, ...] = ()) -> Case:
    """Return a case with one group and one robot."""
    return Case(("user-agent: FooBot", *lines), {"FooBot": (allowed, denied)})


def _matches(pattern: str, matching: tuple[str, ...], other: tuple[str, ...]) -> Case:
    """Return a case in which only the URLs that match a pattern are allowed."""
    return _foobot("disallow: /", f"allow: {pattern}", allowed=matching, denied=other)


_FISH = ("/fish", "/fish.html", "/fish/salmon.html", "/fishheads", "/fishheads/yummy.html", "/fish.html?id=anything")
_HARRY = ("/harry", "/device/time-turner", "/hogwards.html")
_GROUPS = (
    *("allow: /foo/bar/", "", "user-agent: FooBot", "disallow: /", "allow: /x/", "user-agent: BarBot"),
    *("disallow: /", "allow: /y/", "", "", "allow: /w/", "user-agent: BazBot", "", "user-agent: FooBot"),
    *("allow: /z/", "disallow: /"),
)
_PRECEDENCE = (
    *("user-agent: hedwig-news", "disallow: /", "allow: /group1", "user-agent: *", "disallow: /", "allow: /group2"),
    *("user-agent: hedwig", "disallow: /", "allow: /group3"),
)
_LINES = ("user-agent: foo", "allow: /some/path", "user-agent: bar", "", "", "disallow: /")

CASES: dict[str, Case] = {
    # --- The syntax of lines ---
    "a valid file": _foobot("disallow: /", denied=("/x/y",)),
    "an empty file": Case((), {"FooBot": (("/x/y",), ())}),
    "unknown names": Case(("foo: FooBot", "bar: /"), {"FooBot": (("/x/y",), ())}),
    "missing colons": Case(("user-agent FooBot", "disallow /"), {"FooBot": ((), ("/x/y",))}),
    "upper case": Case(("USER-AGENT: FooBot", "ALLOW: /x/", "DISALLOW: /"), {"FooBot": (("/x/y",), ("/a/b",))}),
    "mixed case": Case(("uSeR-aGeNt: FooBot", "AlLoW: /x/", "dIsAlLoW: /"), {"FooBot": (("/x/y",), ("/a/b",))}),
    "LF": Case(("\n".join(_LINES),), {"foo": (("/some/path",), ()), "bar": ((), ("/some/path",))}),
    "CRLF": Case(("\r\n".join(_LINES),), {"bar": ((), ("/some/path",)), "baz": (("/some/path",), ())}),
    "CR": Case(("\r".join(_LINES),), {"bar": ((), ("/some/path",)), "baz": (("/some/path",), ())}),
    "a byte order mark": Case(("\ufeffuser-agent: foo", "disallow: /"), {"foo": ((), ("/x",))}),
    "a byte order mark in the middle": Case(("user-agent: foo", "\ufeffdisallow: /"), {"foo": (("/x",), ())}),
    "a sitemap": Case(
        ("sitemap: http://foo.bar/s.xml", "user-agent: foo", "disallow: /x"), {"foo": (("/y",), ("/x",))}
    ),
    # --- Groups ---
    "groups": Case(
        _GROUPS,
        {
            "FooBot": (("/x/b", "/z/d"), ("/y/c", "/foo/bar/")),
            "BarBot": (("/y/c", "/w/a"), ("/z/d", "/foo/bar/")),
            "BazBot": (("/z/d",), ("/foo/bar/",)),
        },
    ),
    "agents in any case": Case(
        ("user-agent: FOOBOT", "allow: /x/", "disallow: /"),
        {"FooBot": (("/x/y",), ("/a/b",)), "foobot": (("/x/y",), ("/a/b",))},
    ),
    "the group for all": Case(
        ("user-agent: *", "allow: /", "user-agent: FooBot", "disallow: /"),
        {"FooBot": ((), ("/x/y",)), "BarBot": (("/x/y",), ())},
    ),
    "no group for the robot": Case(
        ("user-agent: FooBot", "allow: /", "user-agent: BarBot", "disallow: /", "user-agent: BazBot", "disallow: /"),
        {"QuxBot": (("/x/y",), ())},
    ),
    "the most specific group": Case(
        ("user-agent: *", "disallow: /x/", "user-agent: FooBot", "disallow: /y/"),
        {"FooBot": (("/x/page",), ("/y/page",))},
    ),
    "precedence of groups": Case(
        _PRECEDENCE,
        {
            "hedwig-news": (("/group1",), ("/group2", "/group3")),
            "hedwig-news2": (("/group1",), ("/group2", "/group3")),
            "hedwi": (("/group2",), ("/group1", "/group3")),
            "a": (("/group2",), ("/group1", "/group3")),
            "hedwig-new": (("/group3",), ("/group1", "/group2")),
            "hedwig-images": (("/group3",), ("/group1", "/group2")),
        },
    ),
    # --- Precedence of rules ---
    "the longest rule: deny": _foobot("disallow: /x/page.html", "allow: /x/", denied=("/x/page.html",)),
    "the longest rule: allow": _foobot(
        "allow: /x/page.html", "disallow: /x/", allowed=("/x/page.html",), denied=("/x/",)
    ),
    "empty rules": _foobot("disallow: ", "allow: ", allowed=("/x/page.html",)),
    "equal rules": _foobot("disallow: /", "allow: /", allowed=("/x/page.html",)),
    "equal long rules": _foobot("disallow: /x/page.html", "allow: /x/page.html", allowed=("/x/page.html",)),
    "a slash at the end": _foobot("disallow: /x", "allow: /x/", allowed=("/x/",), denied=("/x",)),
    "the longest rule: wildcard": _foobot(
        "allow: /page", "disallow: /*.html", allowed=("/page",), denied=("/page.html",)
    ),
    "the longest rule: prefix": _foobot(
        "allow: /x/page.", "disallow: /*.html", allowed=("/x/page.html",), denied=("/x/y.html",)
    ),
    "documented: /p": _foobot("allow: /p", "disallow: /", allowed=("/page",)),
    "documented: /folder": _foobot("allow: /folder", "disallow: /folder", allowed=("/folder/page",)),
    "documented: /*.htm": _foobot("allow: /page", "disallow: /*.htm", denied=("/page.htm",)),
    "documented: /$": _foobot("allow: /$", "disallow: /", allowed=("/",), denied=("/page.html", "/page.htm")),
    "paths in another case": _foobot("disallow: /X/", allowed=("/x/y",), denied=("/X/y",)),
    # --- Encoded characters ---
    "a URL in a query": _matches(
        "/foo/bar?qux=taz&baz=http://foo.bar?tar&par", ("/foo/bar?qux=taz&baz=http://foo.bar?tar&par",), ("/foo/bar",)
    ),
    # The downloader encodes URLs, as RFC 9309 requires from the caller of Google's parser.
    "a rule that is not ASCII": _matches("/foo/bar/ツ", ("/foo/bar/%E3%83%84", "/foo/bar/ツ"), ("/foo/bar/",)),
    "an encoded rule": _matches("/foo/bar/%E3%83%84", ("/foo/bar/%E3%83%84", "/foo/bar/ツ"), ("/foo/bar/",)),
    # Here Google's parser compares the texts, but RFC 9309, section 2.2.2, has this case as an example of a match.
    "encoded ASCII": _matches("/foo/bar/%62%61%7A", ("/foo/bar/%62%61%7A", "/foo/bar/baz"), ("/foo/bar/",)),
    # --- Special characters ---
    "an asterisk": _foobot(
        *("disallow: /foo/bar/quz", "allow: /foo/*/qux"),
        allowed=("/foo/quz", "/foo//quz", "/foo/bax/quz"),
        denied=("/foo/bar/quz",),
    ),
    "a dollar": _foobot(
        *("disallow: /foo/bar$", "allow: /foo/bar/qux"),
        allowed=("/foo/bar/qux", "/foo/bar/", "/foo/bar/baz"),
        denied=("/foo/bar",),
    ),
    "a comment": _foobot(
        *("# disallow: /", "disallow: /foo/quz#qux", "allow: /"), allowed=("/foo/bar",), denied=("/foo/quz",)
    ),
    "index.html": Case(
        ("user-agent: *", "allow: /allowed-slash/index.html", "disallow: /"),
        {"foobot": (("/allowed-slash/", "/allowed-slash/index.html"), ("/allowed-slash/index.htm", "/anyother-url"))},
    ),
    # --- The tables of the documentation ---
    "/": _matches("/", _HARRY, ()),
    "/*": _matches("/*", _HARRY, ()),
    "/fish": _matches("/fish", _FISH, ("/bar", "/Fish.asp", "/catfish", "/?id=fish")),
    "/fish*": _matches("/fish*", _FISH, ("/bar", "/Fish.bar", "/catfish", "/?id=fish")),
    "/fish/": _matches(
        "/fish/",
        ("/fish/", "/fish/salmon", "/fish/?salmon", "/fish/salmon.html", "/fish/?id=anything"),
        ("/bar", "/fish", "/fish.html", "/Fish/Salmon.html"),
    ),
    "/*.php": _matches(
        "/*.php",
        (
            *("/filename.php", "/folder/filename.php", "/folder/filename.php?parameters", "/filename.php/"),
            *("//folder/any.php.file.html", "/index?f=filename.php/"),
        ),
        ("/", "/bar", "/php/", "/index?php", "/windows.PHP"),
    ),
    "/*.php$": _matches(
        "/*.php$",
        ("/filename.php", "/folder/filename.php"),
        (
            *("/bar", "/filename.php?parameters", "/filename.php/", "/filename.php5", "/php/", "/filename?php"),
            *("/aaaphpaaa", "//windows.PHP"),
        ),
    ),
    "/fish*.php": _matches("/fish*.php", ("/fish.php", "/fishheads/catfish.php?parameters"), ("/bar", "/Fish.PHP")),
}
