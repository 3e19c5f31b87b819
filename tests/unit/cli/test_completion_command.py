"""`producer completion` prints a script with which a shell completes commands, options, values and files."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli.main import cli
from producer.local_fleet.supervisor_client import ROOT
from tests.conftest import required

_SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """Return the completion script of a shell."""
    result = CliRunner().invoke(cli, ["completion", shell], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def complete(shell: str, *words: str) -> list[str]:
    """Return the lines that the program answers to a shell, which wants to complete the last word."""
    typed = words[:-1] if shell == "fish" else words
    env = {
        "_PRODUCER_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": shlex.join(["producer", *typed]),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    result = CliRunner().invoke(cli, [], prog_name="producer", env=env, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize("shell", _SHELLS)
def test_script_calls_the_program(shell: str) -> None:
    """The script of each shell asks the program in the way that the program answers."""
    assert f"_PRODUCER_COMPLETE={shell}_complete" in script(shell)
    assert "producer" in script(shell)


@pytest.mark.parametrize("shell", _SHELLS)
def test_program_answers_each_shell(shell: str) -> None:
    """The program answers each shell with the options that begin as typed."""
    assert any("--retries" in line for line in complete(shell, "run", "--retr"))


def test_completes_values_and_files() -> None:
    """The values of an option are completed. A list is a file, and a run is a folder."""
    assert complete("bash", "retry", "images", "--reason", "http") == ["plain,http_4xx", "plain,http_5xx"]
    assert complete("bash", "run", "ur") == ["file,ur"]
    assert complete("bash", "resume", "im") == ["dir,im"]


@pytest.mark.parametrize("shell", _SHELLS)
def test_script_prints_no_errors(shell: str) -> None:
    """An error of the program, or a missing program, prints nothing into the line that the user types."""
    (call,) = [line for line in script(shell).splitlines() if "_PRODUCER_COMPLETE=" in line]
    assert call.count(" 2>/dev/null)") == 1


def test_bash_is_silent_without_the_program(tmp_path: Path) -> None:
    """After the environment was deactivated, the Tab key completes and prints nothing."""
    lines = [
        f"export PATH=/usr/bin:/bin HOME={shlex.quote(str(tmp_path))}",
        script("bash"),
        "COMP_WORDS=(producer resu) COMP_CWORD=1",
        "_producer_completion producer",
        'echo "${COMPREPLY[@]}"',
    ]
    argv = [required("bash"), "--norc", "-c", "\n".join(lines)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("\n", "")


def test_bash_example_sets_up_each_new_bash(tmp_path: Path) -> None:
    """After the command in the help, in an empty home folder, each new interactive bash completes producer."""
    (example,) = [line.strip() for line in help_lines() if line.strip().startswith("producer completion bash")]
    program = tmp_path / "bin" / "producer"
    program.parent.mkdir()
    code = "import sys; sys.argv[0] = 'producer'; from producer.cli.main import main; main()"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n')
    program.chmod(0o755)
    env = {"HOME": str(tmp_path), "PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    bash = required("bash")
    subprocess.run([bash, "-c", example], env=env, check=True, timeout=60)
    argv = [bash, "--rcfile", f"{tmp_path}/.bashrc", "-i", "-c", "complete -p producer"]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert "-F _producer_completion producer" in ended.stdout


def help_lines() -> list[str]:
    """Return the lines of the command's help."""
    return CliRunner().invoke(cli, ["completion", "--help"], catch_exceptions=False).stdout.splitlines()


def test_bash_completes_a_command(tmp_path: Path) -> None:
    """In a real bash, the script completes the name of a command."""
    bash = required("bash")
    program = tmp_path / "producer"
    code = "import sys; sys.argv = ['producer']; from producer.cli.main import main; main()"
    program.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', code])}\n")
    program.chmod(0o755)
    lines = [
        f"export PATH={shlex.quote(str(tmp_path))}:$PATH",
        script("bash"),
        "COMP_WORDS=(producer resu) COMP_CWORD=1",
        "_producer_completion producer",
        'echo "${COMPREPLY[@]}"',
    ]
    argv = [bash, "--norc", "-c", "\n".join(lines)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == "resume\n"
