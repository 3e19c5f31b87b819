"""A plain installation, without the extras, stays small."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

_LIMIT_BYTES = 300_000_000
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def _required(requirements: list[str], extras: set[str]) -> Iterator[Requirement]:
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def _installed() -> dict[str, Distribution]:
    """Return the packages that a plain installation has, and pip, which every new environment has."""
    dependencies = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    found: dict[str, Distribution] = {}
    seen = set()
    waiting = list(_required([*dependencies, "pip"], set()))
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        wanted = (name, frozenset(requirement.extras))
        if wanted in seen:
            continue
        seen.add(wanted)
        found[name] = distribution(name)
        waiting += _required(found[name].requires or [], requirement.extras)
    return found


def _size(package: Distribution) -> int:
    paths = (Path(str(file.locate())) for file in package.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def test_plain_installation_is_small() -> None:
    """The packages of a plain installation have at most 300 MB together, and no plotting library is among them."""
    packages = _installed()
    sizes = sorted(((_size(package), name) for name, package in packages.items()), reverse=True)
    largest = ", ".join(f"{name} {size / 1e6:.0f} MB" for size, name in sizes[:10])
    assert sum(size for size, _ in sizes) <= _LIMIT_BYTES, f"the largest packages: {largest}"
    assert not {"matplotlib", "numpy", "pandas"} & packages.keys()
