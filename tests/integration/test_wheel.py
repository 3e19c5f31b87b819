"""The built wheel has every file of the packages, and works where it is installed, without the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import lacking, redis_program
from tests.integration.processes import ROOT, environment

#: The packages of the wheel, and the other files that the build of the wheel reads.
_PACKAGES = ("config", "producer", "tasks")
_FILES = ("LICENSE", "README.md", "pyproject.toml")
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the checkout, and return the path of the wheel."""
    if find_spec("setuptools") is None:
        lacking("setuptools is not installed, which builds the wheel: install the extra `test`")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    for name in _PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, copy)
    _run([sys.executable, "-c", _BUILD, str(folder)], copy)
    (built,) = folder.glob("*.whl")
    return built


def test_has_every_file_of_the_packages(wheel: Path) -> None:
    """The wheel has all modules, all scripts for Redis, and all configuration files of every subfolder."""
    tree = {
        str(path.relative_to(ROOT))
        for name in _PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.partition("/")[0] in _PACKAGES}
    assert packed == tree
    assert any(name.endswith(".lua") for name in packed)


def test_every_folder_is_a_package() -> None:
    """Package discovery finds each folder that holds a module, because each such folder has an ``__init__.py``."""
    folders = {path.parent for name in _PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_runs_the_demo_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """The installed wheel's `producer demo` downloads its images. Dependencies come from this environment."""
    redis_program()
    if find_spec("pip") is None:
        lacking("pip is not installed, which installs the wheel")
    fresh = tmp_path / "environment"
    venv.create(fresh)
    (site,) = fresh.glob("lib/python*/site-packages")
    # A path file inside a borrowed folder is not read, so an editable install of the checkout has no effect.
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    python = str(fresh / "bin" / "python")
    install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    _run([*install, str(wheel)], tmp_path)
    place = _run([python, "-c", "import tasks; print(tasks.__file__)"], tmp_path)
    assert Path(place.strip()) == site / "tasks" / "__init__.py"
    producer = str(fresh / "bin" / "producer")
    shown = json.loads(_run([producer, "demo", "--latency", "10ms", "--out", "demo", "--json"], tmp_path))
    assert [way["success"] for way in shown["ways"]] == [10, 10, 10]


def _run(argv: Sequence[str], folder: Path) -> str:
    """Run a command in a folder, without the checkout on the command's path, and return the output."""
    environ = {name: value for name, value in environment({}).items() if name != "PYTHONPATH"}
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
