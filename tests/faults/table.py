"""The table of the faults that were survived: one row for each, printed at the end and kept as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import records

_HEADS = ("fault", "repetitions", "images", "Outcomes", "lost", "fetched twice", "time to recover")


#: Where a page has the table.
_BEGIN, _END = "<!-- made by tests/faults -->\n", "<!-- end -->\n"


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


#: What this process has measured so far.
rows: list[Row] = []


def plain(found: Iterable[Row]) -> list[str]:
    """Return the table for a terminal, line by line."""
    cells = [_HEADS, *(row.cells() for row in found)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]


def markdown(found: Iterable[Row]) -> str:
    """Return the table as Markdown."""
    lines = [_HEADS, ("---", *["---:"] * (len(_HEADS) - 1)), *(row.cells() for row in found)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def within(page: str, found: Iterable[Row], form: str) -> str:
    """Return a page with the table where it belongs, and how it was made below it."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    machine = records.machine()
    made = f"The {form} form, everything on {machine['cores']} cores of {machine['cpu']}."
    return f"{before}{_BEGIN}{markdown(found)}\n{made}\n{_END}{after}"
