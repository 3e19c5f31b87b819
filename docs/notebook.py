"""Execute the notebook of the docs, and store it with its outputs: ``python -m docs.notebook``. Needs the dev extra."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("captions.ipynb")
#: Seconds for each cell.
_CELL_SECONDS = 120


def execute(folder: Path) -> Any:
    """Execute the notebook in a folder; return it with its outputs, in the form of nbformat.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        book, timeout=_CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in book.cells:
        # These values differ at each execution.
        cell.metadata.pop("execution", None)
    return book


def main() -> None:
    """Execute the notebook, and write it back."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        book = execute(Path(folder))
    nbformat.write(book, NOTEBOOK)
    sys.stdout.write(f"{NOTEBOOK.name}: {len(book.cells)} cells\n")


if __name__ == "__main__":
    main()
