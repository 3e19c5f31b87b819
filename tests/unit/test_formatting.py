"""Counts and sizes in messages."""

from __future__ import annotations

import pytest

from producer.formatting import format_size


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (64 * 1024**2, "64.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (3 * 1024**4, "3.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_size(count: int, shown: str) -> None:
    """A number of bytes is shown in a suitable unit."""
    assert format_size(count) == shown
