"""The tables of faults, printed at the end, kept and shown: what was survived, what a fault does without repair,
and what came of the errors that Redis answers with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import records

#: What `make faults` has found; the page is produced from it.
KEPT = Path(__file__).with_name("found.json")


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one fault; ``seconds`` is from the last time that it struck to the end of the run."""

    fault: str
    repetitions: int
    images: int
    outcomes: int
    lost: int
    twice: int
    seconds: float

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows."""
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
class Standstill:
    """What came of a fault in a run that nobody repaired: what stood after so many idle seconds, and how it ended."""

    fault: str
    images: int
    saved: int
    outcomes: int
    seconds: float
    #: After the next command, which repairs.
    resumed: int

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows."""
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
    """What came of an error that Redis answered with, in the middle of a run."""

    error: str
    workers: str
    #: What the producer did.
    producer: str
    images: int
    outcomes: int
    lost: int
    twice: int

    def cells(self) -> tuple[str, ...]:
        """Return what the table shows."""
        numbers = (f"{number:,}" for number in (self.images, self.outcomes, self.lost, self.twice))
        return (f"`{self.error}`" if self.error.isupper() else self.error, self.producer, self.workers, *numbers)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its name, its heads, and the rows that this process has measured so far."""

    name: str
    heads: tuple[str, ...]
    rows: Sequence[Row | Standstill | Answer]


rows: list[Row] = []
standstills: list[Standstill] = []
answers: list[Answer] = []
SURVIVED = Table(
    "survived", ("fault", "repetitions", "images", "Outcomes", "lost", "fetched twice", "time to recover"), rows
)
WITHOUT_REPAIR = Table(
    "without repair",
    ("fault, without repair", "images", "saved", "Outcomes", "stood still for", "Outcomes after `producer resume`"),
    standstills,
)
ANSWERS = Table(
    "answers", ("Redis answers", "producer", "workers", "images", "Outcomes", "lost", "fetched twice"), answers
)
TABLES = (SURVIVED, WITHOUT_REPAIR, ANSWERS)


def plain(table: Table) -> list[str]:
    """Return a table for a terminal, line by line."""
    cells = [table.heads, *(row.cells() for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]


def keep(form: str, path: Path = KEPT) -> None:
    """Keep what this process has measured; what another one has in the same form stays, but for the same faults."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = kept if kept.get("form") == form else {}
    merged = {table.name: _merged(known.get(table.name, []), map(asdict, table.rows)) for table in TABLES}
    path.write_text(
        json.dumps({"form": form, "machine": records.machine(), **merged}, indent=2) + "\n", encoding="utf-8"
    )


def survived(path: Path = KEPT) -> str:
    """Return the table of what was survived as Markdown, from what is kept."""
    return _markdown(SURVIVED, Row, path)


def without_repair(path: Path = KEPT) -> str:
    """Return the table of what a fault does without repair as Markdown, from what is kept."""
    return _markdown(WITHOUT_REPAIR, Standstill, path)


def redis_errors(path: Path = KEPT) -> str:
    """Return the table of what Redis answered with as Markdown, from what is kept."""
    return _markdown(ANSWERS, Answer, path)


def _merged(known: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # Two rows of one fault tell lists of two lengths apart, and two crews.
    names = ("fault", "error", "workers", "images")
    return list({tuple(row.get(name) for name in names): row for row in (*known, *new)}.values())


def _markdown(table: Table, kind: type[Row] | type[Standstill] | type[Answer], path: Path) -> str:
    kept = json.loads(path.read_text(encoding="utf-8"))
    machine = kept["machine"]
    cells = [kind(**row).cells() for row in kept.get(table.name, [])]
    lines = [table.heads, ("---", *["---:"] * (len(table.heads) - 1)), *cells]
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{rows}\nThe {kept['form']} form, everything on {machine['cores']} cores of {machine['cpu']}.\n"
