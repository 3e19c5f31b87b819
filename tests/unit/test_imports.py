"""A command imports only what it needs, so it starts at once. A program that imports us keeps its settings."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from producer.local_fleet.supervisor_client import ROOT

#: Packages that take 0.1 s or more to import, or that only some commands need.
_HEAVY = {
    *(
        "PIL",
        "celery",
        "flower",
        "kombu",
        "matplotlib",
        "numpy",
        "prometheus_client",
        "protego",
        "pyarrow",
        "requests",
        "tornado",
        "urllib3",
    ),
}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        # Help and usage errors.
        ("producer.cli.main", set()),
        # The supervisor (which outlives the producer) and the image server.
        ("producer.local_fleet.supervisor", set()),
        ("producer.demo", {"PIL"}),
        # A worker.
        ("tasks.jobs", {"PIL", "celery", "kombu", "numpy", "pyarrow", "requests", "urllib3"}),
    ],
)
def test_only_needed_packages_are_imported(module: str, needed: set[str]) -> None:
    """A usage error does not wait for Arrow, and no worker loads the plotting library or metrics."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & _HEAVY <= needed


#: A program that imports all modules and prints the changes. The program prints old and new values by name, and the
#: calls of ``mallopt``.
_IMPORT_ALL = """
import ctypes, gc, importlib, json, logging, pkgutil, warnings
from PIL import Image, PngImagePlugin
import producer, tasks

calls = []

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name.startswith("mall"):
            calls.append(name)
        return super().__getattr__(name)

ctypes.CDLL = Library

def levels():
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("PIL", "producer", "tasks")]
    return {name: level for name in ["", *names] if (level := logging.getLogger(name).level)}

def state():
    return {
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "levels": levels(),
        "limits": (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY),
        "warnings": [str(entry) for entry in warnings.filters if "PIL" in str(entry[3])],
    }

before = state()
found = [
    module.name
    for package in (producer, tasks)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]
for name in found:
    importlib.import_module(name)
after = state()
changed = {name: (before[name], after[name]) for name in after if before[name] != after[name]}
print(json.dumps([len(found), calls, changed]))
"""


def test_imports_change_nothing_of_the_process() -> None:
    """Importing any module leaves malloc, the garbage collector, Pillow's limits and the loggers as they were."""
    argv = [sys.executable, "-c", _IMPORT_ALL]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    modules, calls, changed = json.loads(done.stdout)
    assert modules > 80
    assert calls == []
    assert changed == {}
