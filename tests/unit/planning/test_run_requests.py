"""A row is refused as a duplicate only if an earlier row is fetched, whatever the duplicate shares with that row."""

from __future__ import annotations

import pytest

from producer.output.run_file import RunConfig
from producer.planning.run_requests import prepare_requests
from producer.sources.options import Dedupe, SourceOptions
from tasks.model import ImageRequest, OutputOptions, Reason, Refusal
from tasks.storage.local_store import LocalStore

_URL, _OTHER = "http://a.example/1", "http://a.example/2"
_TEMPLATE = RunConfig(
    shard_size=10, source=SourceOptions(dedupe=Dedupe.URL), output=OutputOptions(path_template="{label}")
)
_COLUMN = RunConfig(shard_size=10, source=SourceOptions(dedupe=Dedupe.URL, path_col="name"))


def row(index: int, url: str, name: str) -> ImageRequest:
    """Return a row with a name, for both kinds of names."""
    return ImageRequest(index, url, {"label": name}, path=name)


def outcomes(listed: list[ImageRequest], config: RunConfig, store: LocalStore) -> list[str | None]:
    """Return the name of each fetched row, and the refusal of each other row."""
    if config is _TEMPLATE:
        listed = [request._replace(path=None) for request in listed]
    found = list(prepare_requests(listed, config, store))
    assert not [path for path in store.root.rglob("*") if path.is_file()]
    assert all(request.path is None for request in found if request.refused is not None)
    return [request.path if request.refused is None else request.refused.message for request in found]


@pytest.mark.parametrize("config", [_TEMPLATE, _COLUMN], ids=["template", "column"])
@pytest.mark.parametrize(
    ("first", "refusal"),
    [
        (row(1, _URL, "../b"), "its file name is not valid: it begins or ends with a slash, or a part of it is empty"),
        (row(1, _URL, "A"), "the same file name as 000000"),
        (row(1, _URL, "b")._replace(refused=Refusal(Reason.INVALID_ROW, "line 2")), "line 2"),
        (row(1, "http://", "b"), None),
    ],
    ids=["unsafe name", "taken name", "invalid row", "invalid URL"],
)
def test_refused_row_has_no_duplicates(
    config: RunConfig, first: ImageRequest, refusal: str | None, store: LocalStore
) -> None:
    """If the first row is refused, the next row with its URL or its name is fetched, and later rows are duplicates."""
    listed = [row(0, _OTHER, "a"), first, row(2, _URL, "b"), row(3, _URL, "c"), row(4, "http://a.example/3", "B")]
    found = outcomes(listed, config, store)
    message = found.pop(1)
    assert message == refusal if refusal is None else str(message).startswith(refusal)
    assert found == ["a", "b", "the same URL as 000002", "the same file name as 000002"]


@pytest.mark.parametrize("config", [_TEMPLATE, _COLUMN], ids=["template", "column"])
def test_duplicate_takes_no_name(config: RunConfig, store: LocalStore) -> None:
    """A row with a repeated URL saves no file, so the next row can get its name."""
    listed = [row(0, _URL, "a"), row(1, _URL, "b"), row(2, _OTHER, "b")]
    assert outcomes(listed, config, store) == ["a", "the same URL as 000000", "b"]
