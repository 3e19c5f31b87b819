"""Fuzzes for as long as it is told: ``python -m tests.fuzz --seconds 60``.

What is found stands in ``.fuzz/TARGET/``: the input that failed, and the log with its traceback. So does what atheris
has learned, with which the next time begins.
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
from tests.integration import parts

#: Git knows nothing of it.
FOLDER = parts.ROOT / ".fuzz"
#: Seconds for one input, and MB for a process; more is a fault.
_PATIENCE, _MEMORY = 10, 1024
#: Examples of each property for a second of hypothesis.
_RATE = 5


def fuzzed(name: str, seconds: int) -> str | None:
    """Fuzz a target by atheris; return what was found, if anything was."""
    target, folder = TARGETS[name], FOLDER / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    argv = [sys.executable, "-m", "tests.fuzz.harness", name, f"-max_total_time={seconds}", f"-timeout={_PATIENCE}"]
    argv += [f"-rss_limit_mb={_MEMORY}", f"-max_len={target.longest}", f"-artifact_prefix={folder}/", str(corpus)]
    log = folder / "log"
    with log.open("wb") as out:
        code = subprocess.run(argv, env=parts.environment({}), stdout=out, stderr=out, check=False).returncode
    text = log.read_text(errors="replace")
    click.echo(f"{name}: {_last(text)}")
    return f"{name}: see {log.relative_to(parts.ROOT)}:\n{_traceback(text)}" if code else None


def properties(seconds: int) -> str | None:
    """Try the properties of this folder by hypothesis; return what was found, if anything was."""
    argv = [sys.executable, "-m", "pytest", "-q", "--timeout=0", str(Path(__file__).parent)]
    done = subprocess.run(
        argv,
        env=parts.environment({"FUZZ_EXAMPLES": str(_RATE * seconds)}),
        cwd=parts.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    click.echo(f"hypothesis: {_last(done.stdout)}")
    return f"hypothesis:\n{done.stdout}{done.stderr}" if done.returncode else None


def _last(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def _traceback(text: str) -> str:
    """Return what a log says of a fault, without what came before."""
    for mark in ("=== Uncaught Python exception", "ERROR: libFuzzer", "Traceback"):
        if mark in text:
            return text[text.index(mark) :][:4000]
    return text[-2000:]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TARGETS)), metavar="[TARGET]...")
@click.option("--seconds", type=click.IntRange(10), default=60, show_default=True, help="How long, about.")
def main(names: tuple[str, ...], seconds: int) -> None:
    """Fuzz what reads bytes of strangers: all targets and properties, or some targets."""
    if importlib.util.find_spec("atheris") is None:
        raise click.ClickException("atheris is not installed: it is of the extra `dev`, on Linux x86_64")
    cores = len(os.sched_getaffinity(0))
    chosen = names or tuple(TARGETS)
    # One after the other on each core.
    each = max(seconds * cores // (len(chosen) + (not names)), 1)
    with ThreadPoolExecutor(cores) as pool:
        running = [] if names else [pool.submit(properties, each)]
        running += [pool.submit(fuzzed, name, each) for name in chosen]
    if faults := [found for job in running if (found := job.result()) is not None]:
        raise click.ClickException("\n".join(faults))


if __name__ == "__main__":
    main()
