"""``python -m tests.answers``: fetch each case's image with all three clients, then store and show the results."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import click

from docs import produce
from tests.answers import table
from tests.answers.cases import CASES
from tests.answers.clients import by_all
from tests.conftest import required


def main() -> None:
    """Store the results, print them, and update the page.

    Exit with status 1 if a row has no reason although imagefleet does worse in it than both other clients.
    """
    rows = {}
    for case in CASES:
        rows[case.name] = by_all(case)
        click.echo(" | ".join((case.name, *rows[case.name].values())))
    curl = subprocess.run([required("curl"), "--version"], capture_output=True, check=True, text=True)
    table.store(rows, {"curl": curl.stdout.split()[1], "requests": version("requests")})
    produce.main()
    for violation in (found := table.violations(CASES, rows)):
        click.echo(violation, err=True)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
