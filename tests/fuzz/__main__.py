"""Fuzz for a given time: ``python -m tests.fuzz --seconds 60``.

The folder ``.fuzz/TARGET/`` holds the findings: the failing input, and the log with the traceback. The folder also
holds the corpus of atheris, from which the next run starts.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from tests.fuzz.targets import TARGETS
from tests.integration import processes

#: Ignored by git.
FOLDER = processes.ROOT / ".fuzz"
#: The time limit of one input in seconds, and the memory limit of a process in MB. Exceeding a limit is a finding.
_PATIENCE, _MEMORY = 10, 1024
#: Number of hypothesis examples per second for each property.
_RATE = 5


def fuzzed(name: str, seconds: int) -> str | None:
    """Fuzz a target with atheris. Return the finding, or None."""
    target, folder = TARGETS[name], FOLDER / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    argv = [sys.executable, "-m", "tests.fuzz.harness", name, f"-max_total_time={seconds}", f"-timeout={_PATIENCE}"]
    argv += [f"-rss_limit_mb={_MEMORY}", f"-max_len={target.longest}", f"-artifact_prefix={folder}/", str(corpus)]
    log = folder / "log"
    with log.open("wb") as out:
        code = subprocess.run(argv, env=processes.environment({}), stdout=out, stderr=out, check=False).returncode
    text = log.read_text(errors="replace")
    click.echo(f"{name}: {_last(text)}")
    return f"{name}: see {log.relative_to(processes.ROOT)}:\n{_traceback(text)}" if code else None


def properties(seconds: int) -> str | None:
    """Test this folder's properties with hypothesis. Return the finding, or None."""
    argv = [sys.executable, "-m", "pytest", "-q", "--timeout=0", str(Path(__file__).parent)]
    done = subprocess.run(
        argv,
        env=processes.environment({"FUZZ_EXAMPLES": str(_RATE * seconds)}),
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    click.echo(f"hypothesis: {_last(done.stdout)}")
    return f"hypothesis:\n{done.stdout}{done.stderr}" if done.returncode else None


def _last(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def _traceback(text: str) -> str:
    """Return the part of a log that describes the failure."""
    for mark in ("=== Uncaught Python exception", "ERROR: libFuzzer", "Traceback"):
        if mark in text:
            return text[text.index(mark) :][:4000]
    return text[-2000:]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TARGETS)), metavar="[TARGET]...")
@click.option("--seconds", type=click.IntRange(10), default=60, show_default=True, help="Approximate duration.")
def main(names: tuple[str, ...], seconds: int) -> None:
    """Fuzz the code that parses untrusted bytes, either all targets and properties or only some targets."""
    if importlib.util.find_spec("atheris") is None:
        raise click.ClickException("atheris is not installed. It is part of the extra `dev`, on Linux x86_64")
    cores = len(os.sched_getaffinity(0))
    chosen = names or tuple(TARGETS)
    # Several targets share a core and run one after another.
    each = max(seconds * cores // (len(chosen) + (not names)), 1)
    with ThreadPoolExecutor(cores) as pool:
        running = [] if names else [pool.submit(properties, each)]
        running += [pool.submit(fuzzed, name, each) for name in chosen]
    if faults := [found for job in running if (found := job.result()) is not None]:
        raise click.ClickException("\n".join(faults))


if __name__ == "__main__":
    main()
