"""Pillow's own test images are counted by result, and wrong results are recognised."""

from __future__ import annotations

import json

from tasks.model import Reason
from tests.pillow.__main__ import counted, wrong
from tests.pillow.counts import COUNTS, KINDS, OTHERS, REASONS, RUNS, kind_of
from tests.upstream import sources

_IMAGES = ["a/b.PNG", "c.jpeg", "d", "e.png"]


def test_kind_follows_the_file_name() -> None:
    """A file's kind follows from its file extension."""
    assert [kind_of(name) for name in _IMAGES] == ["PNG, APNG", "JPEG", OTHERS, "PNG, APNG"]


def test_counts_results_by_kind() -> None:
    """For each kind, the results are counted by outcome."""
    rows = [{"reason": reason} for reason in (None, None, "not_image", "undecodable")]
    assert counted(_IMAGES, rows) == {
        "JPEG": {"success": 1},
        "PNG, APNG": {"success": 1, "undecodable": 1},
        OTHERS: {"not_image": 1},
    }


def test_internal_errors_are_reported() -> None:
    """An internal error or a lost worker is reported with the image that caused it."""
    rows = [
        {"reason": reason, "error_message": "x"} for reason in (None, Reason.INTERNAL, Reason.CRASHED, *REASONS[:1])
    ]
    assert wrong(_IMAGES, rows) == ["c.jpeg: internal: x", "d: crashed: x"]


def test_stored_counts_cover_the_same_images() -> None:
    """The documented runs used the same images. All results of these runs are allowed."""
    kept = json.loads(COUNTS.read_text())
    assert {*RUNS, "version"} == set(kept)
    for run in RUNS:
        assert set(kept[run]) == set(KINDS)
        assert {end for ends in kept[run].values() for end in ends} <= {"success", *REASONS}
    one, other = ({kind: sum(ends.values()) for kind, ends in kept[run].items()} for run in RUNS)
    assert one == other


def test_sources_are_pinned_with_their_hashes() -> None:
    """The downloaded source is the installed version."""
    assert "--hash=sha256:" in sources.requirement("pillow")
