"""Run img2dataset's Resizer as a process beside this process, and write measured tables into the documentation."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks import peer_resizer
from benchmarks.programs import IMG2DATASET

PAGE = Path(__file__).parents[1] / "docs" / "from-img2dataset.md"


class Peer:
    """The process of img2dataset's Resizer."""

    def __init__(self, tasks: IO[str], answers: IO[str]) -> None:
        self._tasks, self._answers = tasks, answers

    def resize_all(self, pictures: Path, out: Path | None, mode: str) -> dict[str, Any]:
        """Resize each picture, as `peer_resizer.resize_all` does."""
        task = {"pictures": str(pictures), "out": None if out is None else str(out), "mode": mode}
        self._tasks.write(json.dumps(task) + "\n")
        self._tasks.flush()
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer


@contextmanager
def running_peer() -> Iterator[Peer]:
    """Start img2dataset's Resizer, and stop it at the end.

    Raises:
        SystemExit: img2dataset is not installed.
    """
    python = IMG2DATASET.with_name("python")
    if not python.exists() or not IMG2DATASET.exists():
        raise SystemExit(f"img2dataset is not installed at {IMG2DATASET}: `make bench` installs it, or set IMG2DATASET")
    with subprocess.Popen(
        [str(python), str(Path(peer_resizer.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONWARNINGS": "ignore"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Peer(process.stdin, process.stdout)
        process.stdin.close()


def write_table(name: str, table: str) -> None:
    """Replace a measured table in the documentation page about img2dataset."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- measured: {name} -->", "<!-- end -->"
    replaced = re.sub(f"{begin}\n.*?{end}", lambda _: f"{begin}\n{table.strip()}\n{end}", text, count=1, flags=re.S)
    if begin not in text:
        raise SystemExit(f"{PAGE} has no place for the table {name}")
    PAGE.write_text(replaced, encoding="utf-8")
