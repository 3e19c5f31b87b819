"""The tables of faults, printed at the end and kept as Markdown: what was survived, and what it is without repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import records


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
class Table:
    """A table: what marks its place in a page, its heads, and its rows so far."""

    mark: str
    heads: tuple[str, ...]
    rows: Sequence[Row | Standstill]


#: What this process has measured so far.
rows: list[Row] = []
standstills: list[Standstill] = []
TABLES = (
    Table(
        "made by tests/faults",
        ("fault", "repetitions", "images", "Outcomes", "lost", "fetched twice", "time to recover"),
        rows,
    ),
    Table(
        "made by tests/faults without repair",
        ("fault, without repair", "images", "saved", "Outcomes", "stood still for", "Outcomes after `producer resume`"),
        standstills,
    ),
)


def plain(table: Table) -> list[str]:
    """Return a table for a terminal, line by line."""
    cells = [table.heads, *(row.cells() for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]


def within(page: str, form: str) -> str:
    """Return a page with the tables that have rows where they belong, and how each was made below it."""
    machine = records.machine()
    made = f"The {form} form, everything on {machine['cores']} cores of {machine['cpu']}."
    for table in TABLES:
        if table.rows:
            begin, end = f"<!-- {table.mark} -->\n", "<!-- end -->\n"
            before, _, rest = page.partition(begin)
            page = f"{before}{begin}{_markdown(table)}\n{made}\n{end}{rest.partition(end)[2]}"
    return page


def _markdown(table: Table) -> str:
    lines = [table.heads, ("---", *["---:"] * (len(table.heads) - 1)), *(row.cells() for row in table.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
