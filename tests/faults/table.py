"""The result tables of the fault tests: survived faults, faults without repair, and Redis errors.

The tables are printed at the end of the tests, saved on request, and shown in docs/faults.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import records

#: The results of `make faults`, from which docs/faults.md is made.
RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one fault; ``seconds`` is the time from the fault's last occurrence to the end of the run."""

    fault: str
    repetitions: int
    images: int
    outcomes: int
    lost: int
    twice: int
    seconds: float

    def cells(self) -> tuple[str, ...]:
        """Return the cells of this result's row."""
        share = f" ({self.twice / self.images:.1%})" if self.twice else ""
        return (
            self.fault,
            f"{self.repetitions:,}",
            f"{self.images:,}",
            f"{self.outcomes:,}",
            f"{self.lost:,}",
            f"{self.twice:,}{share}",
            f"{self.seconds:.1f} s",
        )


@dataclass(frozen=True, slots=True)
class StalledRun:
    """The result of a fault without repair: the run's state after ``seconds`` of idle time and after a resume."""

    fault: str
    images: int
    saved: int
    outcomes: int
    seconds: float
    #: Number of Outcomes after `producer resume`, which repairs the run.
    resumed: int

    def cells(self) -> tuple[str, ...]:
        """Return the cells of this result's row."""
        return (
            self.fault,
            f"{self.images:,}",
            f"{self.saved:,}",
            f"{self.outcomes:,}",
            f"{self.seconds:.0f} s",
            f"{self.resumed:,}",
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a Redis error during a run."""

    error: str
    workers: str
    #: The producer's reaction.
    producer: str
    images: int
    outcomes: int
    lost: int
    twice: int

    def cells(self) -> tuple[str, ...]:
        """Return the cells of this result's row."""
        numbers = (f"{number:,}" for number in (self.images, self.outcomes, self.lost, self.twice))
        return (f"`{self.error}`" if self.error.isupper() else self.error, self.producer, self.workers, *numbers)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, its column heads, and the rows of this process so far."""

    name: str
    heads: tuple[str, ...]
    rows: Sequence[Row | StalledRun | Answer]


rows: list[Row] = []
stalled_runs: list[StalledRun] = []
answers: list[Answer] = []
SURVIVED = Table(
    "survived", ("fault", "repetitions", "images", "Outcomes", "lost", "fetched twice", "time to recover"), rows
)
WITHOUT_REPAIR = Table(
    "without repair",
    ("fault, without repair", "images", "saved", "Outcomes", "stalled for", "Outcomes after `producer resume`"),
    stalled_runs,
)
ANSWERS = Table(
    "answers", ("Redis error", "producer", "workers", "images", "Outcomes", "lost", "fetched twice"), answers
)
TABLES = (SURVIVED, WITHOUT_REPAIR, ANSWERS)


def format_lines(table: Table) -> list[str]:
    """Return the lines of a table for the terminal."""
    cells = [table.heads, *(row.cells() for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]


def save(form: str, path: Path = RESULTS) -> None:
    """Save this process's rows.

    Saved rows of other faults stay if they come from the same form of the tests (long or short).
    """
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = saved if saved.get("form") == form else {}
    merged = {table.name: _merge(known.get(table.name, []), map(asdict, table.rows)) for table in TABLES}
    path.write_text(
        json.dumps({"form": form, "machine": records.machine(), **merged}, indent=2) + "\n", encoding="utf-8"
    )


def survived(path: Path = RESULTS) -> str:
    """Return the saved table of survived faults as Markdown."""
    return _markdown(SURVIVED, Row, path)


def without_repair(path: Path = RESULTS) -> str:
    """Return the saved table of faults without repair as Markdown."""
    return _markdown(WITHOUT_REPAIR, StalledRun, path)


def redis_errors(path: Path = RESULTS) -> str:
    """Return the saved table of Redis errors as Markdown."""
    return _markdown(ANSWERS, Answer, path)


def _merge(known: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # One fault can have several rows, for different list lengths or kinds of workers.
    names = ("fault", "error", "workers", "images")
    return list({tuple(row.get(name) for name in names): row for row in (*known, *new)}.values())


def _markdown(table: Table, kind: type[Row] | type[StalledRun] | type[Answer], path: Path) -> str:
    saved = json.loads(path.read_text(encoding="utf-8"))
    machine = saved["machine"]
    cells = [kind(**row).cells() for row in saved.get(table.name, [])]
    lines = [table.heads, ("---", *["---:"] * (len(table.heads) - 1)), *cells]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    command = "make faults" if saved["form"] == "long" else "make faults-short"
    return f"{rows}\nMeasured by `{command}`, with all processes on {machine['cores']} cores of {machine['cpu']}.\n"
