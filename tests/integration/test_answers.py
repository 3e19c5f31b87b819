"""The cases of docs/answers.md, through real workers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.answers import table
from tests.answers.case import OPTIONS, OTHER_BYTES, SAVED
from tests.answers.cases import CASES
from tests.answers.clients import serving
from tests.integration import processes


def test_workers_match_the_documented_answers(fleet: str, out: Path) -> None:
    """A run of all cases saves the documented bytes, and fails for the documented reasons."""
    cases = [case for case in CASES if not case.proxied and len(case.urls) == 1 and case.options == OPTIONS]
    with ExitStack() as servers:
        urls = [case.urls[0].replace("{server}", servers.enter_context(serving(case)).url) for case in cases]
        source = out.with_suffix(".txt")
        source.write_text("\n".join(urls))
        processes.producer(
            *("run", source, "--out", out, "--broker", fleet, "--json"), *("--timeout", "2s", "--retries", "0")
        ).json()
    found = {}
    for case, row in zip(cases, processes.rows(out), strict=True):
        if row["path"] is None:
            found[case.name] = row["reason"]
        else:
            found[case.name] = SAVED if (out / row["path"]).read_bytes() == case.image else OTHER_BYTES
    stored = table.stored()["rows"]
    documented = {case.name: stored[case.name]["imagefleet"] for case in cases}
    # A refusal begins with its reason, in backquotes.
    assert found == {
        name: text if text in (SAVED, OTHER_BYTES) else text.split("`")[1] for name, text in documented.items()
    }
