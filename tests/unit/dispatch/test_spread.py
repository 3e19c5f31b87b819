"""Spreading the images of each host over a shard."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from producer.dispatch.spread import spread_hosts
from tasks.model import ImageRequest


def spread(urls: Sequence[str]) -> list[str]:
    """Return the URLs in the order in which their tasks are sent."""
    return [request.url for _, request in spread_hosts(list(enumerate(map(ImageRequest, range(len(urls)), urls))))]


def test_mixes_a_list_that_is_sorted_by_host() -> None:
    """Each run of as many images as there are hosts has one image of each host."""
    urls = [f"http://{host}.example/{number}.jpg" for host in "abcd" for number in range(5)]
    hosts = [url[7] for url in spread(urls)]
    assert [sorted(hosts[start : start + 4]) for start in range(0, 20, 4)] == [list("abcd")] * 5


def test_spaces_the_images_of_a_large_host_evenly() -> None:
    """A host with half of the images gets every second place, although each of the other images has its own host."""
    urls = [*(f"http://large.example/{number}" for number in range(6)), *(f"http://{n}.example/1" for n in range(6))]
    large = [place for place, url in enumerate(spread(urls)) if "large" in url]
    assert [place // 2 for place in large] == [0, 1, 2, 3, 4, 5]


@given(st.lists(st.sampled_from(["http://a/1", "http://a/2", "https://b:8080/1", "not a URL", ""])))
def test_keeps_all_images_and_the_order_of_each_host(urls: list[str]) -> None:
    """No image is lost or repeated, whatever the URLs are, and the images of one host keep their order."""
    found = spread(urls)
    assert sorted(found) == sorted(urls)
    assert [url for url in found if "://a" in url] == [url for url in urls if "://a" in url]
