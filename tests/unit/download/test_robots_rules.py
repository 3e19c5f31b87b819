"""A robots.txt is parsed whatever its bytes are, and survives the way through Redis."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protego import Protego

from tasks.download import robots_rules
from tasks.download.robots_rules import (
    MAX_BYTES,
    MAX_CRAWL_DELAY_SECONDS,
    RULES_SECONDS,
    UNREACHABLE_SECONDS,
    RobotsRules,
    product_token,
)

_DENY_X = b"User-agent: *\nDisallow: /x\n"


def allows(body: bytes, target: str, token: str = "imagefleet") -> bool:
    """Tell whether a file allows a path."""
    return RobotsRules.from_body(body).allows(target, token)


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        (None, "imagefleet"),
        ("SomeBot/1.0 (+https://a.example/bot)", "somebot"),
        ("Mozilla/5.0 (compatible; Some-Bot_2/1.0; +https://a.example)", "some-bot_2"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "mozilla"),
        ("img2dataset", "img2dataset"),
        ("/", "imagefleet"),
    ],
)
def test_product_token_of_a_user_agent(user_agent: str | None, token: str) -> None:
    """The rules for a run are those for the name in its User-Agent."""
    assert product_token(user_agent) == token


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xef\xbb", b"\xef", b""])
def test_byte_order_mark_is_skipped(mark: bytes) -> None:
    """The first line counts even after a byte order mark, or a part of one."""
    assert not allows(mark + _DENY_X, "/x")


@pytest.mark.parametrize(
    "body", [b"", b"\n\n", b"<!doctype html>\n<p>Not found: /x\n", b"\x89PNG\r\n\x1a\n", b"Disallow: /\n"]
)
def test_file_without_a_group_allows_everything(body: bytes) -> None:
    """An empty file, a web page, an image, and rules for no robot allow every URL."""
    rules = RobotsRules.from_body(body)
    assert rules.allows("/x", "imagefleet")
    assert rules.text == ""


def test_web_page_that_mentions_robots_allows_everything() -> None:
    """A web page is no robots.txt, even if it has the words."""
    assert allows(b"<html><body>Our <b>User-agent: *</b> and\n<i>Disallow: /</i></body></html>", "/x")


def test_only_the_first_part_of_a_huge_file_counts() -> None:
    """The first 500 KiB are parsed. A rule that is cut off there does not count."""
    comment = b"#" * (MAX_BYTES - len(_DENY_X) - len(b"\nDisallow: /"))
    body = _DENY_X + comment + b"\nDisallow: /private\nDisallow: /late\n"
    assert body[:MAX_BYTES].endswith(b"\nDisallow: /")
    assert [allows(body, path) for path in ("/x", "/private", "/late", "/")] == [False, True, True, True]


def test_bytes_that_are_not_utf8_match() -> None:
    """A rule in Latin-1 matches the URL with the same bytes, and no other path."""
    body = b"User-agent: *\nDisallow: /caf\xe9\n"
    assert [allows(body, path) for path in ("/caf%E9", "/caf", "/cafe")] == [False, True, True]


@pytest.mark.parametrize("line", ["User-agent: a%d", "User-agent a%d", "useragent:a%d", "User agent a:%d", "x: %d"])
def test_many_robots_with_many_rules_take_little_memory(line: str) -> None:
    """The rules of a group are not copied for each robot that the group names."""
    robots = "\n".join(line % number for number in range(2000))
    rules = "\n".join(f"Disallow: /{number}" for number in range(2000))
    body = f"User-agent: *\n{robots}\n{rules}\n".encode()
    tracemalloc.start()
    try:
        assert [allows(body, path) for path in ("/1", "/x")] == [False, True]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_rules_of_a_few_robots_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are parsed once for each of the last robots."""
    parsed: list[str] = []

    def parse(text: str, token: str) -> Protego:
        parsed.append(token)
        return Protego.parse(text)

    monkeypatch.setattr(robots_rules, "_parse", parse)
    rules = RobotsRules.from_body(_DENY_X)
    for token in ("a", "b", "a", "c", "d", "e", "e", "a"):
        assert not rules.allows("/x", token)
    assert parsed == ["a", "b", "c", "d", "e", "a"]


_LINES = st.sampled_from(
    [
        *("User-agent: *", "user-agent imagefleet", "USER AGENT: image", "useragent: f*leet", "User-agent: fleet", "-"),
        *("User-agent: other", "User agent a:b", "User-agent:", "User-agent: **", "User-agent", "user-agent x: y", ""),
        *("Disallow: /", "Disallow: /a", "Allow: /a", "Allow: /ab", "Crawl-delay: 1", "Disallow:", "Host: a", "x:y"),
    ]
)


@given(st.lists(_LINES, max_size=12), st.sampled_from(["imagefleet", "image", "my-image", "other", "zzz"]))
def test_rules_for_one_robot_are_those_of_the_whole_file(lines: list[str], token: str) -> None:
    """Although the names of other robots are left out, each decision is that of protego."""
    text = "\n".join(lines)
    expected = [Protego.parse(text).can_fetch(f"http://host{path}", token) for path in ("/", "/a", "/ab")]
    assert [RobotsRules(text).allows(path, token) for path in ("/", "/a", "/ab")] == expected


@pytest.mark.parametrize(
    ("line", "delay"),
    [
        ("Crawl-delay: 2", 2.0),
        ("crawl-delay: 0.5", 0.5),
        ("Crawl-delay: 86400", MAX_CRAWL_DELAY_SECONDS),
        ("Crawl-delay: 0", None),
        ("Crawl-delay: -1", None),
        ("Crawl-delay: soon", None),
        ("Crawl-delay: inf", None),
        ("Disallow:", None),
    ],
)
def test_crawl_delay(line: str, delay: float | None) -> None:
    """A crawl delay is read up to a cap. A delay of another robot does not count."""
    rules = RobotsRules.from_body(f"User-agent: imagefleet\n{line}\nUser-agent: other\nCrawl-delay: 7\n".encode())
    assert rules.crawl_delay("imagefleet") == delay
    assert RobotsRules().crawl_delay("imagefleet") is None


def test_rules_survive_json() -> None:
    """Rules that come back from Redis decide as before. Comments and sitemaps are left out, to save memory."""
    rules = RobotsRules.from_body(
        b"# hello\nSitemap: https://a.example/s.xml\nUser-agent: *  # all\n\nDisallow: /\xe3\x83\x84\n"
    )
    back = RobotsRules.from_json(rules.to_json())
    assert back.text == rules.text == "User-agent: *\nDisallow: /ツ"
    assert [back.allows(path, "a") for path in ("/%E3%83%84", "/a")] == [False, True]
    assert back.lifetime == RULES_SECONDS


def test_unreachable_host_survives_json() -> None:
    """The error of a host that could not be asked is shared for a shorter time."""
    back = RobotsRules.from_json(RobotsRules(unreachable="HTTP 503").to_json())
    assert (back.unreachable, back.lifetime) == ("HTTP 503", UNREACHABLE_SECONDS)


@given(st.binary(max_size=200), st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#")))
@example(b"User-agent: *\nDisallow: http://[\nAllow: //[$*%\n", "//[::/?%")
def test_no_file_raises_an_error(body: bytes, path: str) -> None:
    """Any bytes are accepted as a file, with any path, and the copy in Redis decides in the same way."""
    rules = RobotsRules.from_body(b"User-agent: *\n" + body)
    decision = rules.allows(f"/{path}", "imagefleet")
    assert RobotsRules.from_json(rules.to_json()).allows(f"/{path}", "imagefleet") == decision
