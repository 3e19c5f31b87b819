"""What was measured, kept as JSON with the machine that it was measured on."""

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


def keep(name: str, result: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Write what was measured, with the day and the machine; `make docs` puts it into the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    kept = {"measured_on": datetime.now(UTC).date().isoformat(), "machine": machine(), **result}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return path


def load(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """Return what was measured, or None where that was not done yet."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def all_kept(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Return all that was measured, by its name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most of repeated measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: the machine, and our own versions."""
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
