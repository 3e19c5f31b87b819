"""A broken standard stream never changes the exit status, and every text file has an explicit encoding."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from producer.local_fleet.supervisor_client import ROOT

#: Environments in which Python uses ASCII for standard streams, or for files too.
ASCII = {
    "streams": {"PYTHONIOENCODING": "ascii"},
    "strict streams": {"PYTHONIOENCODING": "ascii:strict"},
    "locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def command(*arguments: str | Path) -> list[str]:
    """Return a `producer` command."""
    return [sys.executable, "-m", "producer", *map(str, arguments)]


def run_to_end(argv: list[str], env: Mapping[str, str], **options: int) -> subprocess.CompletedProcess[bytes]:
    """Run a command until it ends."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(argv, env={**os.environ, **env}, cwd=ROOT, check=False, timeout=60, **pipes)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("env", ASCII.values(), ids=ASCII)
def test_escapes_characters_outside_the_encoding(tmp_path: Path, env: dict[str, str]) -> None:
    """Non-ASCII characters in an error message are shown as escape sequences. They do not change the exit status."""
    done = run_to_end(command("run", tmp_path / "größe-画像.txt", "--out", tmp_path / "out"), env)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"No such file" in done.stderr
    done.stderr.decode("ascii")


@pytest.mark.parametrize("env", [{}, *ASCII.values()], ids=["UTF-8", *ASCII])
def test_reports_a_file_name_outside_utf_8(tmp_path: Path, env: dict[str, str]) -> None:
    """A file name with bytes outside UTF-8 can still be reported."""
    source = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    done = run_to_end(command("resume", source), env)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"There is no folder" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """A command with closed standard streams works as usual.

    The command does not write into another file by accident.
    """
    argv = " ".join(command("run", "-", "--out", tmp_path / "out"))
    done = run_to_end(["sh", "-c", f"{argv} {closed}"], {}, stdin=subprocess.DEVNULL)
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    assert ("2>&-" in closed) or b"contains no URLs" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_closed_output_pipe(arguments: list[str]) -> None:
    """Closing the pipe of the output, as `head` does, changes no exit status."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_to_end(command(*arguments), {}, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_error_pipe(tmp_path: Path) -> None:
    """An error keeps its exit status if its output pipe is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_to_end(command("run", tmp_path / "missing", "--out", tmp_path / "out", "--json"), {}, stderr=writer)
    finally:
        os.close(writer)
    assert done.returncode == 2
    assert b'"exit_code": 2' in done.stdout


def test_output_on_a_full_disk(tmp_path: Path) -> None:
    """Output that does not fit on the disk is an error with a reason and a hint. Messages are dropped."""
    with Path("/dev/full").open("wb") as full:
        done = run_to_end(command("--help"), {}, stdout=full.fileno())
        missing = command("run", tmp_path / "missing", "--out", tmp_path / "out", "--json")
        silent = run_to_end(missing, {}, stderr=full.fileno())
    assert done.returncode == 1
    assert b"The output of the command can't be written" in done.stderr
    assert b"Traceback" not in done.stderr
    assert silent.returncode == 2
    assert b'"exit_code": 2' in silent.stdout


def test_text_files_have_an_explicit_encoding() -> None:
    """Code that opens a text file or a text pipe names UTF-8, because the locale's encoding may differ.

    ruff's PLW1514 finds only calls on types that it can infer.
    """
    folders = ("config", "tasks", "producer", "docs", "benchmarks")
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    assert [f"{file.relative_to(ROOT)}:{line}" for file in files for line in _without_encoding(file)] == []


def _without_encoding(file: Path) -> Iterator[int]:
    """Return the lines of a module that open a text file, or a text pipe, in the locale's encoding."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        function = ast.unparse(node.func)
        modes = [ast.unparse(argument) for argument in (*node.args, *(option.value for option in node.keywords))]
        is_binary = any(mode.startswith("'") and mode.strip("'rwxab+") == "" and "b" in mode for mode in modes)
        opens = function.rpartition(".")[2] in ("open", "fdopen") and not function.startswith(
            ("os.open", "Image.", "tarfile.")
        )
        if "encoding" not in options and (
            function.endswith((".read_text", ".write_text"))
            or (opens and not is_binary)
            or options.get("text") == "True"
            or options.get("universal_newlines") == "True"
        ):
            yield node.lineno
