"""Run kombu's and Celery's own tests over our code, and compare the results with the expected ones.

``python -m tests.upstream`` installs nothing, and downloads the tests once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import click

from tests.integration.processes import environment, redis_server
from tests.upstream import sources
from tests.upstream.expected import FAILING
from tests.upstream.suites import COUNTS, SUITES, Suite

#: Timeout of a test in seconds, unless its authors set one.
_PATIENCE = 300


@dataclass(frozen=True)
class Result:
    """The results of a suite's tests."""

    passed: int = 0
    skipped: int = 0
    #: The number of tests whose authors expect them to fail, always or sometimes.
    marked: int = 0
    #: Three lists of names: tests that failed as `expected` says, tests that failed otherwise, and tests that passed
    #: when repeated.
    expected: Sequence[str] = ()
    failed: Sequence[str] = ()
    rerun: Sequence[str] = ()
    #: The exit status of pytest, and the duration of the tests in seconds.
    code: int = 0
    seconds: int = 0

    def counts(self) -> dict[str, int]:
        """Return the numbers that are the same in every run of the suite."""
        expected = len(self.expected)
        return {"passed": self.passed, "expected": expected, "skipped": self.skipped, "marked": self.marked}


def run(suite: Suite, ports: Sequence[int], theirs: bool, only: str) -> Result:
    """Run a suite, or some of its tests. A separate Redis listens at each of the ports."""
    log, outcomes = sources.FOLDER / f"{suite.name}.log", sources.FOLDER / f"{suite.name}.json"
    outcomes.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "--verbose", "--tb=short", "--disable-warnings", "-k", only]
    argv += [f"--config-file={suite.config}", "--rootdir=.", f"--timeout={_PATIENCE}", f"--suite={suite.name}"]
    argv += [f"--redis-ports={','.join(map(str, ports))}", f"--outcomes={outcomes}", *(["--theirs"] * theirs)]
    for plugin in ("no:cacheprovider", "no:valkey", "tests.conftest", "celery.contrib.pytest", "tests.upstream.plugin"):
        argv += ["-p", plugin]
    if suite.processes > 1:
        # The tests run one after the other, in the plugin's order.
        argv += [f"--numprocesses={suite.processes}", "--dist=load", "--maxschedchunk=1"]
    argv += [f"t/{module}" for module in suite.modules]
    started = monotonic()
    with log.open("wb") as out:
        folder = sources.fetched(suite.distribution)
        done = subprocess.run(argv, cwd=folder, env=environment({}), stdout=out, stderr=out, check=False)
    found = json.loads(outcomes.read_text()) if outcomes.exists() else {}
    return Result(**found, code=done.returncode, seconds=round(monotonic() - started))


def wrong(suite: str, result: Result, counts: Mapping[str, int]) -> list[str]:
    """Return how a suite's result differs from the expected failures and from ``counts``, the documented numbers."""
    failed = {name for test in result.expected for name in (test, test.partition("[")[0])}
    expected = {name for names in FAILING[suite].values() for name in names}
    faults = [f"{name} did not fail, or does not exist" for name in sorted(expected - failed)]
    if result.counts() != counts:
        faults.append(
            f"{suite}: the numbers differ from docs/upstream-tests.md; to store them: python -m tests.upstream --keep"
        )
    return faults


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([suite.name for suite in SUITES]), metavar="[SUITE]...")
@click.option("--only", default="", help="Run only the tests that match this expression, as with pytest's -k.")
@click.option("--theirs", is_flag=True, help="Use kombu's and Celery's own code, for comparison.")
@click.option("--keep", is_flag=True, help="Store the numbers, for `make docs`.")
def main(names: tuple[str, ...], only: str, theirs: bool, keep: bool) -> None:
    """Run kombu's and Celery's own tests over our transport and backend.

    Suites run in parallel. By default, all suites run.
    """
    if shutil.which("redis-server") is None:
        raise click.ClickException("redis-server is not installed on this machine")
    suites = [suite for suite in SUITES if not names or suite.name in names]
    for distribution in sorted({suite.distribution for suite in suites}):
        sources.fetched(distribution)
    with ExitStack() as stack, ThreadPoolExecutor(len(suites)) as pool:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = {}
        for suite in suites:
            ports = []
            for number in range(suite.processes):
                (folder := place / f"{suite.name}-{number}").mkdir()
                ports.append(stack.enter_context(redis_server(folder)))
            running[suite] = pool.submit(run, suite, ports, theirs, only)
        results = {suite: future.result() for suite, future in running.items()}
    counts: dict[str, dict[str, int]] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if keep:
        counts |= {suite.name: result.counts() for suite, result in results.items()}
        COUNTS.write_text(json.dumps(counts, indent=2) + "\n")
    faults = []
    for suite, result in results.items():
        numbers = ", ".join(f"{name} {number}" for name, number in result.counts().items())
        click.echo(f"{suite.name}: {numbers}; {result.seconds} s; see {sources.FOLDER.name}/{suite.name}.log")
        for name in result.rerun:
            click.echo(f"  {name} passed only when repeated")
        faults += [f"{name} failed" for name in result.failed]
        faults += [f"{suite.name}: pytest ended with {result.code}"] if result.code else []
        if not theirs and not only:
            faults += wrong(suite.name, result, counts.get(suite.name, {}))
    if faults:
        raise click.ClickException("\n".join(faults))


if __name__ == "__main__":
    main()
