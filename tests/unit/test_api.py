"""The package offers the names of the library call."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import producer
from producer.local_fleet.supervisor_client import ROOT
from producer.output.run_file import PlanState, State
from tasks.storage.local_store import LocalStore
from tests.runs import SIZE, make_run

_SOURCE = (ROOT / "producer" / "__init__.py").read_text(encoding="utf-8")
#: The names that a type checker sees.
_TYPED = re.findall(r"^    from \S+ import \w+ as (\w+)$", _SOURCE, re.MULTILINE)


@pytest.mark.parametrize("name", _TYPED)
def test_each_name_is_imported_when_it_is_used(name: str) -> None:
    """A name is the object of the same name in its own module, and completion offers it."""
    assert getattr(producer, name).__name__ == name
    assert name in dir(producer)


def test_unknown_name_is_an_error() -> None:
    """An unknown name raises the usual error, so `hasattr` works."""
    assert len(_TYPED) > 15
    assert not hasattr(producer, "downlod")


def test_every_option_type_is_offered() -> None:
    """Whatever a caller needs to build the options of a call can be imported from `producer`."""
    local = {name: getattr(producer, name) for name in _TYPED}
    needed: set[type] = set()
    for call in (producer.download, producer.resume, producer.retry):
        for argument, hint in get_type_hints(call, localns=local).items():
            if argument not in ("return", "on_progress"):
                needed.update(_option_types(hint))
    assert {producer.RunConfig, producer.ImageFormat, producer.Dedupe, producer.IncrementalMode} <= needed
    assert {kind.__name__ for kind in needed} <= set(_TYPED)


def _option_types(hint: Any) -> Iterator[type]:
    """Yield the enum types and dataclasses in a type hint, and in the fields of these dataclasses."""
    for part in get_args(hint):
        yield from _option_types(part)
    if not inspect.isclass(hint):
        return
    if issubclass(hint, Enum):
        yield hint
    elif is_dataclass(hint):
        yield hint
        for field in get_type_hints(hint).values():
            yield from _option_types(field)


def test_names_are_imported_on_demand() -> None:
    """Importing the package loads only the standard library, so a notebook or a command does not wait for it."""
    code = "import sys; before = set(sys.modules); import producer; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"producer"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the path of a list of five URLs."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"http://127.0.0.1:1/{number}\n" for number in range(5)), encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return the folder of a complete run of five images."""
    folder = tmp_path / "out"
    folder.mkdir()
    make_run(tmp_path / "listed.txt", LocalStore(folder), 5, 2, State.COMPLETE, PlanState.COMPLETE)
    return folder


def _content(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


#: The package without types, as a program without a type checker uses it.
_UNTYPED: Any = producer
_INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "incremental": ({"incremental": "overwritten"}, "skip, overwrite, extend"),
    "empty incremental": ({"incremental": ""}, "skip, overwrite, extend"),
    "shard size": ({"config": _UNTYPED.RunConfig(shard_size=0)}, "shard_size"),
    "format": ({"config": _UNTYPED.RunConfig(output=_UNTYPED.OutputOptions("zip"))}, "webdataset"),
    "resize": (
        {"config": _UNTYPED.RunConfig(_UNTYPED.FetchOptions(resize=_UNTYPED.ResizeOptions("boarder")))},
        "border",
    ),
    "timeout": ({"config": _UNTYPED.RunConfig(_UNTYPED.FetchOptions(timeout="x"))}, "timeout"),
    "retries": ({"config": _UNTYPED.RunConfig(_UNTYPED.FetchOptions(retries=-5))}, "from 0 to 10"),
    "columns": ({"config": _UNTYPED.RunConfig(source=_UNTYPED.SourceOptions(columns="id"))}, "columns"),
    "limit": ({"config": _UNTYPED.RunConfig(source=_UNTYPED.SourceOptions(limit=0))}, "at least 1"),
    "options instead of a RunConfig": ({"config": _UNTYPED.FetchOptions()}, "RunConfig"),
    "numbers as URLs": ({"source": [1, 2]}, "item 0 is 1 (int)"),
    "one number": ({"source": 5}, "source can't be this int"),
    "bytes": ({"source": b"http://127.0.0.1/"}, "source can't be this bytes"),
    "no URLs": ({"source": []}, "contains no URLs"),
    "texts": ({"source": ["cat", "dog"]}, "contains no URLs"),
    "no folder": ({"out": None}, "output folder None"),
    "empty folder": ({"out": ""}, "name is empty"),
    "home folder": ({"out": "~/images"}, "home folder"),
    "unknown scheme": ({"out": "ftp://host/images"}, "ftp:// is not supported"),
    "URL of a file": ({"out": "file:///images"}, "without file://"),
    "broker's URL": ({"workers": "redis://:s3cr3t@127.0.0.1:1/0"}, "Broker(url)"),
    "no workers": ({"workers": _UNTYPED.LocalFleet(workers=0)}, "LocalFleet.workers can't be 0"),
    "network": ({"workers": _UNTYPED.LocalFleet(allow_networks="127.0.0.1")}, "LocalFleet.allow_networks"),
    "unknown network": ({"workers": _UNTYPED.LocalFleet(allow_networks=("10.0.0.0/33",))}, "LocalFleet.allow_networks"),
    "callback": ({"on_progress": 5}, "on_progress"),
}


@pytest.mark.parametrize(("arguments", "said"), _INVALID.values(), ids=_INVALID)
def test_download_refuses_invalid_arguments_first(
    arguments: dict[str, Any], said: str, source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid argument raises UsageError before anything is created, and an existing run stays as it is."""
    monkeypatch.chdir(tmp_path)
    before = _content(tmp_path)
    for folder in (out, tmp_path / "new"):
        with pytest.raises(producer.UsageError) as refused:
            producer.download(**{"source": source, "out": folder, **arguments})
        error = refused.value
        message = f"{error.what}: {error.why}. {error.hint}"
        assert said in message
        assert "s3cr3t" not in message
    assert _content(tmp_path) == before


def test_mode_for_an_existing_run_may_be_a_string(source: Path, out: Path, tmp_path: Path) -> None:
    """The strings ``skip``, ``extend`` and ``overwrite`` do what the members do; the run's files stay."""
    before = _content(out)
    listed = tmp_path / "listed.txt"
    config = producer.RunConfig(shard_size=SIZE)
    assert producer.download(listed, out, config, incremental="skip").summary.total == 5
    with pytest.raises(producer.UsageError, match="has the rows of this list already"):
        producer.download(listed, out, config, incremental="extend")
    (out / "list.txt").write_bytes(source.read_bytes())
    with pytest.raises(producer.UsageError, match="can't be overwritten"):
        producer.download(out / "list.txt", out, config, incremental="overwrite")
    assert {path: body for path, body in _content(out).items() if path in before} == before


@pytest.mark.parametrize("reasons", [["bogus"], ["timeout", "TIMEOUT"], "timeout", 5])
def test_retry_refuses_unknown_reasons(reasons: Any, out: Path) -> None:
    """An unknown reason, and one text instead of a list, are refused, because nothing would be retried."""
    before = _content(out)
    with pytest.raises(producer.UsageError, match="reasons can't be"):
        producer.retry(out, reasons)
    assert _content(out) == before
