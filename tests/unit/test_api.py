"""The package offers the names of the library call."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, get_args, get_type_hints

import pytest

import producer
from producer.local_fleet.supervisor_client import ROOT

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
