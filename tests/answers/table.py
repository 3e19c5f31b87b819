"""The table of `docs/answers.md`, the stored results of its cases, and the rule for every row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.answers.case import CLIENTS, OTHER_BYTES, SAVED, Case
from tests.answers.cases import CASES, GROUPS

#: The results of `make answers`. `docs/answers.md` is produced from these results.
FOUND = Path(__file__).with_name("results.json")

Results = Mapping[str, str]


def stored() -> dict[str, Any]:
    """Return the stored results.

    ``rows`` has the results by case and client, and ``versions`` has the versions of the clients.
    """
    found: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8"))
    return found


def store(rows: Mapping[str, Results], versions: Results) -> None:
    """Store the results of all cases."""
    found = {"versions": versions, "rows": {case.name: rows[case.name] for case in CASES}}
    FOUND.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def violations(cases: Iterable[Case], rows: Mapping[str, Results]) -> list[str]:
    """Return a sentence for each row that has no reason although imagefleet does worse than both other clients."""
    found = []
    for case in cases:
        ours, *others = (rows[case.name][client] for client in CLIENTS)
        if ours == OTHER_BYTES:
            # A client can't detect a truncated body if the length field gives the length after the truncation.
            if set(others) != {OTHER_BYTES}:
                found.append(f"{case.name}: imagefleet saves something else than the server's image")
        elif ours == SAVED and case.reason:
            found.append(f"{case.name}: has a reason to refuse the image, but imagefleet saves it")
        elif ours != SAVED and SAVED in others and not case.reason:
            found.append(f"{case.name}: imagefleet refuses an image that another client saves, without a reason")
        elif ours != SAVED and SAVED not in others and case.reason:
            found.append(f"{case.name}: needs no reason, because no client saves the image")
    return found


def answers() -> str:
    """Return the text of the page's tables: for each group, a heading and a table."""
    found = stored()
    rows = found["rows"]
    lines = []
    for heading, cases in GROUPS.items():
        lines += [f"### {heading}", "", "| the server's answer | imagefleet | curl | requests |", "|---|---|---|---|"]
        for case in cases:
            cells = [rows[case.name][client] for client in CLIENTS]
            if case.reason:
                cells[0] += f". {case.reason}"
            lines.append("| " + " | ".join(_cell(text) for text in (case.title, *cells)) + " |")
        lines.append("")
    saved = [sum(rows[case.name][client] == SAVED for case in CASES) for client in CLIENTS]
    versions = found["versions"]
    lines += [
        f"The tables have {len(CASES)} answers. imagefleet saves {saved[0]} of the images. curl (version "
        f"{versions['curl']}) saves {saved[1]} images. requests (version {versions['requests']}) saves "
        f"{saved[2]} images.",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
