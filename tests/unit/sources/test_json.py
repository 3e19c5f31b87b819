"""The first rows of a JSON list give the types.

Each row that does not fit is refused, and the refusal gives the place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from producer.sources import url_list
from producer.sources.options import InputFormat, SourceOptions
from tasks.errors import UsageError
from tasks.model import ImageRequest
from tasks.storage import plan
from tasks.storage.shard_parquet import ShardRef

_VALUES: dict[str, tuple[list[Any], str, list[Any]]] = {
    "integers": ([1, None, -2], "int64", [1, None, -2]),
    "numbers": ([1, 2.5, 2**70], "double", [1.0, 2.5, 2.0**70]),
    "truth values": ([True, None, False], "bool", [True, None, False]),
    "nothing": ([None, None, None], "string", [None, None, None]),
    "text and numbers": (["a", 1, None], "string", ["a", "1", None]),
    "numbers and text": ([1, "a", None], "string", ["1", "a", None]),
    "numbers and truth values": ([1, True, None], "string", ["1", "true", None]),
    "objects without fields": ([{}, {}, None], "string", ["{}", "{}", None]),
    "objects": ([{"a": 1}, {"b": None}, None], "struct<a: int64, b: string>", [{"a": 1, "b": None}, None, None]),
    "huge integers": ([2**63, 1, None], "string", [str(2**63), "1", None]),
}


def read(path: Path, body: bytes, options: SourceOptions | None = None) -> list[ImageRequest]:
    """Return the requests of a file with these bytes."""
    path.write_bytes(body)
    return list(url_list.read(str(path), options or SourceOptions()))


@pytest.mark.parametrize(("values", "kind", "stored"), _VALUES.values(), ids=_VALUES)
def test_types_of_columns(tmp_path: Path, values: list[Any], kind: str, stored: list[Any]) -> None:
    """A column has the common type of its first values.

    Without a common type, the column is text, with the values as JSON.
    """
    path = tmp_path / "list.jsonl"
    path.write_text("".join(json.dumps({"url": "http://a/", "it": value}) + "\n" for value in values))
    requests = url_list.read(str(path), SourceOptions(columns=("it",)))
    table = plan.decode(plan.encode(list(requests), ShardRef("id", 0), requests.schema))
    assert str(table.schema.field("it").type) == kind
    if kind.startswith("struct"):
        stored = [{"a": 1, "b": None}, {"a": None, "b": None}, None]
    assert table["it"].to_pylist() == stored


def test_numbers_in_an_array(tmp_path: Path) -> None:
    """An array may contain integers of any usual length. Other numbers are floats, however deep they are."""
    row = {"url": "http://a/", "big": 2**80, "x": 0.5, "deep": [{"x": [1.5, 1e300]}]}
    options = SourceOptions(columns=("big", "x", "deep"))
    for request in read(tmp_path / "list.json", json.dumps([row, row]).encode(), options):
        assert request.columns == {"big": str(2**80), "x": 0.5, "deep": [{"x": [1.5, 1e300]}]}


@pytest.mark.parametrize("number", ["9" * 4301, "9" * 5000, "-" + "9" * 100_000, "1e99999999999999999999"])
def test_numbers_that_python_refuses_are_an_error(tmp_path: Path, number: str) -> None:
    """A number that Python can't read ends the list. It never crashes the parser, wherever a block ends."""
    for spaces in (0, 1, 63, 64 * 1024 - 100):
        body = f'["http://a/", {" " * spaces}{number}]'.encode()
        with pytest.raises(UsageError, match="can't be read") as caught:
            read(tmp_path / "list.json", body)
        assert "it contains a number" in caught.value.why


def test_digits_in_a_text_are_not_a_number(tmp_path: Path) -> None:
    """A text of many digits is no number."""
    (request,) = read(tmp_path / "list.json", json.dumps([{"url": "http://a/", "mask": "01" * 100_000}]).encode())
    assert request.url == "http://a/"


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_an_integer_beyond_the_range_of_floats_is_refused(tmp_path: Path, name: str) -> None:
    """After the first thousand rows, an integer of 400 digits in a column of numbers makes its row invalid."""
    rows = [json.dumps({"url": "http://a/", "n": 0.5})] * 1000 + [f'{{"url": "http://a/", "n": {10**400}}}']
    body = "\n".join(rows) if name.endswith("l") else f"[{','.join(rows)}]"
    requests = read(tmp_path / name, body.encode(), SourceOptions(columns=("n",)))
    assert "which is a column of double" in str(requests[1000].refused)


@pytest.mark.parametrize("value", [1.5, True, "1", [1], {"a": 1}, 2**63])
def test_later_value_of_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    """After the first thousand rows, a value of another type makes its row invalid."""
    rows = [{"url": "http://a/", "n": index} for index in range(1000)]
    rows += [{"url": "http://a/", "n": value}, {"url": "http://a/", "n": 5}]
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    requests = read(tmp_path / "list.jsonl", body, SourceOptions(columns=("n",)))
    assert requests[-1].columns == {"n": 5}
    assert "line 1,001 has " in str(requests[1000].refused)
    assert not any(request.refused for request in requests[:1000])


def test_bad_lines_are_refused(tmp_path: Path) -> None:
    """A line that is not a JSON object, or has no URL, is refused with its number. NaN is read as Python writes it."""
    good = b'{"url": "http://a/", "n": NaN}\n'
    body = good + b'{"url": \n\n[1]\n{"url": 5}\n{"url": null}\n{}\n"http://b/"\n{"url": "\\ud800"}\n' + good
    requests = read(tmp_path / "list.jsonl", body)
    assert [request.url for request in requests] == ["http://a/", *[""] * 5, "http://b/", "", "http://a/"]
    assert [request.refused.message for request in requests if request.refused] == [
        "line 2 is not JSON",
        "line 4 is not an object",
        "line 5 has no URL",
        "line 6 has no URL",
        "line 7 has no URL",
        "line 9 is not JSON",
    ]


@pytest.mark.parametrize("depth", [10, 100, 1000, 5000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_deep_values(tmp_path: Path, name: str, start: str, end: str, depth: int) -> None:
    """A deeply nested value becomes text, or makes its row or list invalid. A deep value never overflows the stack."""
    row = f'{{"url": "http://a/", "a": {start * depth}1{end * depth}}}\n'
    body = row if name.endswith("l") else f"[{row}]"
    try:
        (request,) = read(tmp_path / name, body.encode(), SourceOptions(columns=("a",)))
    except UsageError:
        assert depth >= 1000
    else:
        assert depth >= 1000 or request.columns["a"] is not None


def test_a_very_deep_value_becomes_text_or_is_refused(tmp_path: Path) -> None:
    """A value that is nested 20,000 levels deep does not overflow the stack while its column's type is inferred."""
    body = f'[{{"url": "http://a/", "a": {"[" * 20_000}{"]" * 20_000}}}, {{"url": "http://b/", "a": 1}}]'
    deep, flat = read(tmp_path / "list.json", body.encode(), SourceOptions(columns=("a",)))
    assert deep.refused is not None or deep.columns["a"]
    assert flat.columns == {"a": "1"}


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_few_large_rows_decide_the_types(tmp_path: Path, name: str) -> None:
    """Rows after the first 16 MiB decide no types, so that the rows that do fit into memory."""
    rows = [json.dumps({"url": "http://a/", "n": 1, "text": "x" * (3 << 20)})] * 6 + ['{"url": "http://b/", "n": "a"}']
    body = "\n".join(rows) if name.endswith("l") else f"[{','.join(rows)}]"
    requests = read(tmp_path / name, body.encode(), SourceOptions(columns=("n",)))
    assert [request.columns.get("n") for request in requests] == [1] * 6 + [None]
    assert "which is a column of int64" in str(requests[6].refused)


def test_a_huge_line_is_refused(tmp_path: Path) -> None:
    """A line of more than 16 MiB makes only its own row invalid."""
    requests = read(
        tmp_path / "list.jsonl", b'{"url": "http://a/"}\n{"a": "' + b"x" * (17 << 20) + b'"}\n"http://b/"\n'
    )
    assert [request.url for request in requests] == ["http://a/", "", "http://b/"]


@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "list"])
@pytest.mark.parametrize("body", [b'["http://a/",\n "http://b/"]', b'{"link": "http://a/"}\n{"link": "http://b/"}\n'])
def test_array_and_lines_are_told_apart(tmp_path: Path, name: str, body: bytes) -> None:
    """Unless --input-format is given, the content shows whether a file is an array or lines."""
    assert [request.url for request in read(tmp_path / name, body)] == ["http://a/", "http://b/"]
    other = InputFormat.JSONL if body.startswith(b"[") else InputFormat.JSON
    with pytest.raises(UsageError, match="look"):
        read(tmp_path / name, body, SourceOptions(other))


@pytest.mark.parametrize("body", [b'{\n "images": ["http://a/"]\n}\n', b"url\nhttp://a/\n", b""])
def test_other_content_is_not_json(tmp_path: Path, body: bytes) -> None:
    """A file named .json is refused if it is not an array or lines of objects."""
    with pytest.raises(UsageError, match="look"):
        read(tmp_path / "list.json", body)


def test_truncated_array_is_an_error(tmp_path: Path) -> None:
    """If an array breaks off, an error names the place."""
    body = json.dumps(["http://a/"] * 50_000).encode()
    with pytest.raises(UsageError, match="can't be read") as caught:
        read(tmp_path / "list.json", body[:-100_000])
    assert "not valid JSON after element" in caught.value.why


def test_path_or_name(tmp_path: Path) -> None:
    """A column whose name contains a dot is found before a nested column."""
    row = {"image": {"url": "http://nested/"}, "meta.id": 1, "meta": {"id": 2}}
    (request,) = read(tmp_path / "list.jsonl", json.dumps(row).encode(), SourceOptions(columns=("meta.id",)))
    assert (request.url, request.columns) == ("http://nested/", {"meta.id": 1})
