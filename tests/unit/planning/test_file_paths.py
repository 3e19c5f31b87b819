"""A row with its own name gets that name. If the name is invalid or taken, the row is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from producer.output.run_file import RunConfig
from producer.planning.file_paths import check_names
from producer.planning.run_requests import prepare_requests
from producer.sources.options import SourceOptions
from producer.sources.request_stream import RequestStream
from tasks.errors import UsageError
from tasks.model import ImageRequest, OutputFormat, OutputOptions, Reason, Refusal, Sidecar
from tasks.storage.local_store import LocalStore

_NAMED = {"cats/Tom": 0, "": 1, "CATS/tom": 2, "dogs/rex": 3, "cats/tom.jpg/x": 4}


def config(template: str | None, column: str | None = None) -> RunConfig:
    """Return the options of a run with a template, or with a column of names."""
    return RunConfig(shard_size=10, output=OutputOptions(path_template=template), source=SourceOptions(path_col=column))


def labelled(labels: Iterable[str]) -> list[ImageRequest]:
    """Return requests with these labels."""
    return [ImageRequest(index, f"http://a.example/{index % 2}", {"label": x}) for index, x in enumerate(labels)]


def named(requests: Iterable[ImageRequest], template: str | None, store: LocalStore) -> list[ImageRequest]:
    """Return the requests with names from the template or, if there is no template, from a column.

    No temporary file remains.
    """
    found = list(prepare_requests(requests, config(template, None if template else "name"), store))
    assert not list(store.root.rglob("file_paths"))
    return found


def test_default_names_need_nothing(store: LocalStore) -> None:
    """Without a template, requests stay as they are."""
    requests = labelled(["a", "b"])
    assert list(prepare_requests(requests, config(None), store)) == requests


def test_names_of_a_column(store: LocalStore) -> None:
    """Names that differ only in case are the same. The refusal of the second row names the key of the first row."""
    found = named(labelled(_NAMED), "{label}", store)
    assert [request.path for request in found] == ["cats/Tom", None, None, "dogs/rex", None]
    assert found[1].refused == Refusal(
        Reason.INVALID_ROW,
        "its file name is not valid: it begins or ends with a slash, or a part of it is empty, . or ..",
    )
    assert found[2].refused == Refusal(Reason.DUPLICATE, "the same file name as 000000")
    assert found[4].refused is not None
    assert "could have the name of a file" in found[4].refused.message


def test_names_from_the_list(store: LocalStore) -> None:
    """Names in the list are checked like names from a template. Rows without a name keep the default name."""
    requests = [
        ImageRequest(index, "http://a.example/", path=path) for index, path in enumerate(["a", None, "A", "../a"])
    ]
    found = named(requests, None, store)
    assert [request.path for request in found] == ["a", None, None, None]
    reasons = [None if request.refused is None else request.refused.reason for request in found]
    assert reasons == [None, None, Reason.DUPLICATE, Reason.INVALID_ROW]


def test_same_url_has_the_same_name(store: LocalStore) -> None:
    """With scrapy's names, a repeated URL is a duplicate. With names by content, a repeated URL is no duplicate."""
    requests = labelled(["a", "b", "c"])
    found = named(requests, "full/{url_sha1}", store)
    assert [request.refused is None for request in found] == [True, True, False]
    assert all(request.refused is None for request in named(requests, "{sha256}", store))


def test_refused_rows_have_no_name(store: LocalStore) -> None:
    """A row that is already refused loses its name from the list, and a later row can get that name."""
    refusal = Refusal(Reason.INVALID_ROW, "line 1")
    requests = [ImageRequest(0, "", {"label": "a"}, refused=refusal), *labelled(["", "a"])[1:]]
    assert [request.path for request in named(requests, "{label}", store)] == [None, "a"]
    given = [ImageRequest(0, "", path="../a", refused=refusal), ImageRequest(1, "http://a.example/", path="a")]
    assert named(given, None, store) == [given[0]._replace(path=None), given[1]]


def test_unknown_column(store: LocalStore) -> None:
    """If a template's field is not a column of the list, the command ends before the first row, and gives a hint."""
    stream = RequestStream(lambda: (pa.schema([("caption", pa.string())]), iter(labelled(["a"]))))
    with pytest.raises(UsageError, match="unknown fields: label") as caught:
        next(iter(prepare_requests(stream, config("{label}/{key}"), store)))
    assert "--columns" in caught.value.hint


def test_folder_with_other_files(store: LocalStore) -> None:
    """A templated run needs a folder of its own, because an image could get the name of another file."""
    store.replace(".lock", b"")
    check_names(store, config("{label}"))
    store.replace("mine.jpg", b"")
    check_names(store, config(None))
    with pytest.raises(UsageError, match="is not empty") as caught:
        check_names(store, config("{label}"))
    assert "mine.jpg" in caught.value.why


def test_extensions_of_given_names(store: LocalStore) -> None:
    """A given name loses its image extension, because the file gets the extension of its real format."""
    requests = [
        ImageRequest(index, "http://a.example/", path=path)
        for index, path in enumerate(["a.JPG", "b.jpeg", "v1.2", "c.txt"])
    ]
    assert [request.path for request in named(requests, None, store)] == ["a", "b", "v1.2", "c.txt"]


def test_options_that_exclude_given_names(store: LocalStore) -> None:
    """If a column gives the names, a template or packed output is refused."""
    source = SourceOptions(path_col="name")
    for output in (OutputOptions(path_template="{key}"), OutputOptions(OutputFormat.PARQUET)):
        with pytest.raises(UsageError, match="can't be used together"):
            check_names(store, RunConfig(source=source, output=output))


def test_invalid_template_of_the_library(store: LocalStore) -> None:
    """A template is reported in the same way, whether a command has checked it or not."""
    with pytest.raises(UsageError, match="is not valid"):
        list(prepare_requests(labelled(["a"]), config("../{key}"), store))


@pytest.mark.parametrize(
    ("output", "what"),
    [
        (OutputOptions(OutputFormat.WEBDATASET, path_template="{key}"), "--path-template can't be used"),
        (OutputOptions(OutputFormat.PARQUET, (Sidecar.JSON,)), "--sidecar can't be used"),
        (OutputOptions(OutputFormat.FILES, (Sidecar.TXT,), "{sha256}"), "--sidecar can't be used"),
    ],
)
def test_conflicting_options_are_refused(tmp_path: Path, output: OutputOptions, what: str) -> None:
    """A program can pass options that the command refuses. A run refuses them, too."""
    with pytest.raises(UsageError, match=what):
        check_names(LocalStore(tmp_path), RunConfig(output=output))
