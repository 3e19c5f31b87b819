"""A filter chooses rows of a manifest, and comes from the query of a URL."""

from __future__ import annotations

import pyarrow as pa
import pytest

from producer.gallery.image_filter import FilterError, ImageFilter

_TABLE = pa.table(
    {
        "url": ["http://a.example/1", "http://a.example/2", "http://b.example/3", "no URL"],
        "status": ["success", "success", "failed_to_download", "failed_to_download"],
        "reason": pa.array([None, None, "http_4xx", "invalid_url"], pa.string()),
        "format": pa.array(["jpeg", "png", None, None], pa.string()),
        "bytes": pa.array([100, 20_480, None, None], pa.int64()),
        "width": pa.array([64, 800, None, None], pa.int32()),
        "height": pa.array([48, 600, None, None], pa.int32()),
    }
)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ({}, [0, 1, 2, 3]),
        ({"page": "7", "status": " "}, [0, 1, 2, 3]),
        ({"status": "success"}, [0, 1]),
        ({"reason": "http_4xx"}, [2]),
        ({"format": "png"}, [1]),
        ({"host": "A.example."}, [0, 1]),
        ({"host": "example"}, []),
        ({"min_bytes": "100", "max_bytes": "20KiB"}, [0, 1]),
        ({"min_bytes": "101"}, [1]),
        ({"max_bytes": "20kB"}, [0]),
        ({"min_side": "48"}, [0, 1]),
        ({"min_side": "49"}, [1]),
        ({"min_side": "1", "max_side": "64"}, [0]),
        ({"max_side": "63"}, []),
        ({"host": "a.example", "format": "jpeg", "status": "success"}, [0]),
        ({"status": "success", "reason": "http_4xx"}, []),
    ],
)
def test_chooses_rows(query: dict[str, str], rows: list[int]) -> None:
    """All given properties must match. A row whose value is unknown is never chosen by that value."""
    chosen = ImageFilter.from_query(query)
    assert chosen.rows(_TABLE.select(chosen.columns)) == rows


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"status": "failed"}, "There is no status failed."),
        ({"reason": "<b>"}, "There is no reason <b>."),
        ({"min_bytes": "many"}, "many is not a size, such as 500 or 20KiB."),
        ({"max_bytes": "9" * 400}, "A size has at most 30 characters."),
        ({"max_bytes": "9" * 25}, "is not a size of a file."),
        ({"min_side": "-1"}, "-1 is not a number of pixels."),
        ({"max_side": "9" * 10}, "is not a number of pixels."),
        ({"host": "a" * 400}, "The name of a host has at most 300 characters."),
    ],
)
def test_unusable_value_is_named(query: dict[str, str], message: str) -> None:
    """The message says which value is wrong."""
    with pytest.raises(FilterError, match=message):
        ImageFilter.from_query(query)


def test_query_has_the_filter() -> None:
    """A filter's query gives the same filter, and further values are added."""
    chosen = ImageFilter.from_query({"host": "a.example:81", "min_bytes": "1KiB"})
    assert chosen.query(page=2) == "host=a.example%3A81&min_bytes=1024&page=2"
