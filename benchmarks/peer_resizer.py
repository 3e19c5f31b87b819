"""Resize a folder's pictures with img2dataset's own Resizer.

The Python of img2dataset's environment runs this file. So the file imports no code of imagefleet.

It is a filter of JSON lines, so that two programs can work in turns. An input line has ``pictures`` (a folder), ``out``
(a folder, or null to discard the images) and ``mode``. An output line has the CPU seconds, and a result for each
picture.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

SIZE = 256


def resize_all(pictures: Path, out: Path | None, mode: str) -> dict[str, Any]:
    """Resize each picture.

    Return the CPU seconds, and the sizes or the error of each picture by name.
    """
    resizer = importlib.import_module("img2dataset.resizer").Resizer(SIZE, mode, False)
    bodies = {path.name: path.read_bytes() for path in sorted(pictures.iterdir())}
    results: dict[str, Any] = {}
    started = time.process_time()
    for name, body in bodies.items():
        encoded, width, height, original_width, original_height, error = resizer(io.BytesIO(body))
        results[name] = {"size": [width, height], "original": [original_width, original_height], "error": error}
        if out is not None and encoded is not None:
            (out / name).write_bytes(encoded)
    return {"seconds": time.process_time() - started, "results": results}


if __name__ == "__main__":
    for line in sys.stdin:
        task = json.loads(line)
        out = None if task["out"] is None else Path(task["out"])
        print(json.dumps(resize_all(Path(task["pictures"]), out, task["mode"])), flush=True)
