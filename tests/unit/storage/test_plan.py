"""A shard's requests survive a round trip through their Parquet file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.model import ImageRequest, PreviousImage, Reason, Refusal
from tasks.storage import plan
from tasks.storage.plan import CorruptPlanError
from tasks.storage.shard_parquet import ShardRef

_MARK = ShardRef("", 0)


def parquet(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


@given(st.integers(0, 2**50), st.lists(st.text(max_size=50), min_size=1, max_size=20))
def test_requests_come_back(first: int, urls: list[str]) -> None:
    """Indexes and URLs are unchanged, even if a row is not a URL."""
    requests = [ImageRequest(first + place, url) for place, url in enumerate(urls)]
    table = plan.decode(plan.encode(requests, _MARK))
    assert plan.requests(table) == requests
    assert plan.indexes(table) == [request.index for request in requests]


def test_columns_and_types() -> None:
    """The plan's columns are index, url, and the source's columns with their types. A missing value is null."""
    rows = [ImageRequest(0, "a", {"caption": "x", "width": 3}), ImageRequest(1, "b", {"caption": None})]
    table = plan.decode(plan.encode(rows, _MARK))
    assert table.schema.names == ["index", "url", "caption", "width"]
    assert table.schema.types == [pa.int64(), pa.string(), pa.string(), pa.int64()]
    assert table.column("width").to_pylist() == [3, None]


def test_other_columns_stay_in_the_plan() -> None:
    """A decoded request has only its index and URL, because the other columns are never sent."""
    table = plan.decode(plan.encode([ImageRequest(5, "a", {"caption": "x"})], _MARK))
    assert plan.requests(table) == [ImageRequest(5, "a")]


_FORMER = PreviousImage("00003/00003007.jpg", 4, 3, "jpeg", 5, "f00", 8, 6, "{}", "http://a.example/b", '"e"', "today")


def test_previous_run_data_comes_back() -> None:
    """A URL's data from a previous run comes back only with the request for this URL."""
    requests = [ImageRequest(0, "a"), ImageRequest(1, "b", previous=_FORMER), ImageRequest(2, "c")]
    table = plan.decode(plan.encode(requests, _MARK))
    assert plan.requests(table) == requests
    alone = [ImageRequest(0, "a", previous=PreviousImage("p", 1, 1, "png", 1, "f00", etag='"e"'))]
    assert plan.requests(plan.decode(plan.encode(alone, _MARK))) == alone


def test_facts_of_a_request_come_back() -> None:
    """A request's refusal, file name and expected hash come back. The file has no column without values."""
    refused = Refusal(Reason.DUPLICATE, "the URL of 00000000")
    requests = [
        ImageRequest(0, "a", path="cats/1", expected_hash="md5:900150983cd24fb0d6963f7d28e17f72"),
        ImageRequest(1, "a", refused=refused),
    ]
    table = plan.decode(plan.encode(requests, _MARK))
    assert plan.requests(table) == requests
    assert table.column_names == ["index", "url", "imagefleet.refused", "imagefleet.path", "imagefleet.hash"]


def test_renames_source_columns_named_like_the_plans() -> None:
    """The plan's own columns keep their names. Source columns that have the same names are renamed."""
    own = {"index": "x", "imagefleet.previous": "y", "source_index": "z"}
    table = plan.decode(plan.encode([ImageRequest(7, "a", own, _FORMER), ImageRequest(8, "b", own)], _MARK))
    assert plan.requests(table) == [ImageRequest(7, "a", previous=_FORMER), ImageRequest(8, "b")]
    others = set(table.column_names) - {"index", "url", "imagefleet.previous"}
    assert sorted(table[name][0].as_py() for name in others) == ["x", "y", "z"]


@pytest.mark.parametrize(("shard", "name"), [(0, ".plan/00000.parquet"), (123_456, ".plan/123456.parquet")])
def test_file_name_contains_the_shard(shard: int, name: str) -> None:
    """A plan's file is named after its shard."""
    assert plan.name(shard) == name


_whole = plan.encode([ImageRequest(0, "http://a.example/")], _MARK)
_BROKEN = {
    "nothing": b"",
    "text": b"index,url\n",
    "cut": _whole[:-1],
    "truncated": _whole[: len(_whole) // 2],
    "another table": parquet(pa.table({"url": ["a"], "index": [1]})),
    "no columns": parquet(pa.table({})),
    "no rows": parquet(pa.table({"index": pa.array([], pa.int64()), "url": pa.array([], pa.string())})),
}


@pytest.mark.parametrize("body", _BROKEN.values(), ids=_BROKEN)
def test_refuses_an_invalid_plan(body: bytes) -> None:
    """A broken file, an empty file, and a table that is no plan are refused."""
    with pytest.raises(CorruptPlanError, match="not a "):
        plan.decode(body)
