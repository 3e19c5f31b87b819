"""What is counted of Pillow's own test images, and what must not come of one."""

from __future__ import annotations

import json

from tasks.model import Reason
from tests.pillow.__main__ import counted, wrong
from tests.pillow.counts import COUNTS, KINDS, OTHERS, REASONS, RUNS, kind_of
from tests.upstream import sources

_IMAGES = ["a/b.PNG", "c.jpeg", "d", "e.png"]


def test_images_have_their_kinds() -> None:
    """A file is counted by the ending of its name."""
    assert [kind_of(name) for name in _IMAGES] == ["PNG, APNG", "JPEG", OTHERS, "PNG, APNG"]


def test_ends_are_counted() -> None:
    """Each kind has how many ended how."""
    rows = [{"reason": reason} for reason in (None, None, "not_image", "undecodable")]
    assert counted(_IMAGES, rows) == {
        "JPEG": {"success": 1},
        "PNG, APNG": {"success": 1, "undecodable": 1},
        OTHERS: {"not_image": 1},
    }


def test_what_is_not_of_the_image_is_wrong() -> None:
    """A fault of ours, or a lost worker, is told with the image that caused it."""
    rows = [
        {"reason": reason, "error_message": "x"} for reason in (None, Reason.INTERNAL, Reason.CRASHED, *REASONS[:1])
    ]
    assert wrong(_IMAGES, rows) == ["c.jpeg: internal: x", "d: crashed: x"]


def test_kept_numbers_are_of_the_same_images() -> None:
    """The documentation shows runs over one set of images, and no end that should not be."""
    kept = json.loads(COUNTS.read_text())
    assert {*RUNS, "version"} == set(kept)
    for run in RUNS:
        assert set(kept[run]) == set(KINDS)
        assert {end for ends in kept[run].values() for end in ends} <= {"success", *REASONS}
    one, other = ({kind: sum(ends.values()) for kind, ends in kept[run].items()} for run in RUNS)
    assert one == other


def test_sources_are_pinned_with_their_hashes() -> None:
    """What is fetched is what is installed."""
    assert "--hash=sha256:" in sources.requirement("pillow")
