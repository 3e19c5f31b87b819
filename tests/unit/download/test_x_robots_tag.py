"""X-Robots-Tag is parsed in all its forms, and invalid values are ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.download.x_robots_tag import opt_out_directive


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["all"], None),
        ([""], None),
        (["noarchive, nosnippet, max-snippet: 5, nofollow"], None),
        (["max-image-preview: none"], None),
        (["imagefleet: noai"], "noai"),
        (["ImageFleet : nofollow, noindex"], "noindex"),
        (["googlebot: noindex"], None),
        (["googlebot: noindex, noai"], None),
        (["googlebot: noindex, imagefleet: noai"], "noai"),
        (["imagefleet: nofollow, otherbot: noai"], None),
        (["googlebot: nofollow", "noai"], "noai"),
        (["*: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Sunday, 25-Jun-30 15:00:00 PST"], None),
    ],
)
def test_opt_out(values: list[str], directive: str | None) -> None:
    """A directive applies if it is for all robots or for us. A directive for another robot does not apply."""
    assert opt_out_directive(values) == directive


@given(st.lists(st.text(max_size=40)))
def test_opt_out_never_raises(values: list[str]) -> None:
    """Any text gives a known directive or None."""
    assert opt_out_directive(values) in (None, "noai", "noimageai", "noindex", "noimageindex", "none")
