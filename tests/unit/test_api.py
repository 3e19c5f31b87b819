"""The package offers the names of the library call."""

from __future__ import annotations

import re

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
