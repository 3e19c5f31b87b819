"""Save and load results as JSON, with a description of the machine that was measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from config import VERSION

FOLDER = Path(__file__).with_name("results")
_PACKAGES = ("celery", "kombu", "redis", "hiredis", "requests", "urllib3", "pillow", "pyarrow")


def save(name: str, result: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Save a result with the day and the machine. `make docs` puts the result into the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {"measured_on": datetime.now(UTC).date().isoformat(), "machine": machine(), **result}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def load(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """Return a saved result, or None if there is none yet."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def load_all(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return all saved results by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the minimum and the maximum of repeated measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def machine() -> dict[str, Any]:
    """Return a description of the machine, and the versions of Python, imagefleet and its dependencies."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "imagefleet": VERSION,
        **{name: version(name) for name in _PACKAGES},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
