"""Locations of output folders: which URLs are valid, and which folders are below others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.locations import StoreUrl, check_folder_name, parse_location


def test_parses_locations() -> None:
    """A URL of an object store has a bucket and a prefix. Any other text is a path."""
    assert parse_location("s3://bucket/a/b/") == StoreUrl("s3", "bucket", ("a", "b"))
    assert str(parse_location("GS://bucket")) == "gs://bucket"
    assert str(parse_location("az://box/date=2026/a b".replace(" ", "-"))) == "az://box/date=2026/a-b"
    assert parse_location("/data/out") == Path("/data/out")


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3:///a",
        "s3://b/a",
        "s3://bucket//a",
        "s3://bucket/a//",
        "s3://bucket/./a",
        "s3://bucket/a/..",
        "s3://bucket/a%2f..",
        "s3://bucket/a?b",
        "s3://bucket/a#b",
        "s3://bucket/a,b",
        "s3://bucket/a\\b",
        "s3://bucket/a\0b",
        "s3://user:password@bucket/a",
        "s3://bucket/a\n",
    ],
)
def test_refuses_invalid_urls(text: str) -> None:
    """A URL is refused if tools could read it differently, or if it has more than a bucket and a prefix."""
    with pytest.raises(ValueError, match=r"bucket|prefix"):
        parse_location(text)


@given(st.text(st.sampled_from("ab./%\\?#@:,\0 é"), max_size=12))
def test_valid_urls_stay_below_their_root(prefix: str) -> None:
    """In a valid URL, each part of the prefix is a plain name. Parsing the URL's text gives the same URL again."""
    try:
        url = StoreUrl.parse(f"s3://bucket/root/{prefix}")
    except ValueError:
        return
    assert not {"", ".", ".."} & set(url.parts)
    assert StoreUrl.parse(str(url)) == url
    assert url.is_within(StoreUrl.parse("s3://bucket/root"))


def test_folders_below_others() -> None:
    """A folder is below another folder only in the same bucket. `data/run` is below `data`, and `data-2` is not."""
    root = StoreUrl.parse("s3://bucket/data")
    below = ("s3://bucket/data", "s3://bucket/data/run")
    other = ("s3://bucket", "s3://bucket/data-2", "s3://bucket/dat", "s3://other/data/run", "gs://bucket/data/run")
    assert [StoreUrl.parse(url).is_within(root) for url in below + other] == [True, True] + [False] * 5
    assert StoreUrl.parse("s3://bucket/any").is_within(StoreUrl.parse("s3://bucket"))


@pytest.mark.parametrize("text", ["", "~", "~/images", "~user/images", "file:///images", "ftp://host/images"])
def test_likely_mistakes_are_no_folders(text: str) -> None:
    """An empty name, a name that begins with ``~``, and the URL of something else are refused."""
    with pytest.raises(ValueError, match=r"empty|home folder|not supported"):
        check_folder_name(text)


@pytest.mark.parametrize("text", ["images", "./~", "/data/~images", "a,b", "C:images"])
def test_other_names_are_folders(text: str) -> None:
    """Every other text is the path of a folder."""
    check_folder_name(text)
