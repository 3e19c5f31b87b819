"""Run the commands of a guide as a reader would: in terminals, one block after the other.

``python -m docs.guide_runner PAGE`` runs a page's commands in an empty folder. The commands are real: they start
servers, workers and Redis on this machine. A test runs each guide in network and mount namespaces of its own.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from docs.guide_steps import Action, GuideError, Step, read_steps

ROOT = Path(__file__).parent.parent
#: Seconds for each wait: for the end of a block, for an event, and for a line of output.
PATIENCE_SECONDS = 120.0
#: Seconds in which interrupted commands must end.
_GRACE_SECONDS = 30.0
#: The environment variable that marks the processes of a step.
_MARK = "GUIDE_STEP"


class Terminal:
    """A terminal: a folder, variables, and at most one running block.

    Args:
        state: a folder for the terminal's variables, and for the output of its blocks.
        folder: the folder in which the first block begins.
    """

    def __init__(self, state: Path, folder: Path) -> None:
        self._state = state
        self._state.mkdir()
        self._count = 0
        self._mark = ""
        self._log = state / "0.log"
        self._process: subprocess.Popen[bytes] | None = None
        (state / "variables").touch()
        (state / "folder").write_text(str(folder), encoding="utf-8")

    @property
    def output(self) -> str:
        """The output of the newest block."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def folder(self) -> Path:
        """The terminal's current folder, as after its last block that has ended."""
        return Path((self._state / "folder").read_text(encoding="utf-8").strip())

    def start(self, commands: str) -> None:
        """Start a block. A later block of the same terminal gets its variables and its folder."""
        self._count += 1
        self._log = self._state / f"{self._count}.log"
        self._mark = str(uuid.uuid4())
        state = shlex.quote(str(self._state))
        script = (
            f'source {state}/variables; cd "$(cat {state}/folder)"; set -eu\n'
            f"trap 'export -p >{state}/variables; pwd >{state}/folder' EXIT\n{commands}"
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["/usr/bin/env", "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, _MARK: self._mark},
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Return whether a block has not ended yet."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait until the newest block has ended, and return its exit status.

        Raises:
            GuideError: the block did not end in this time.
        """
        if self._process is None:
            return 0
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise GuideError(f"still running after {seconds:g} s:\n{self.output}") from None

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, signal.SIGINT)

    def cut_power(self) -> None:
        """Kill all processes of the newest block, including those in other sessions."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    # Redis overwrites its environment, so it has no mark. It is a child of a process that has one.
                    found += [process, *process.children(recursive=True)]
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        self.wait(_GRACE_SECONDS)


class Guide:
    """A page whose blocks run one after the other.

    Args:
        place: an empty folder. Each terminal begins in its folder `home`, with the checkout in `home/imagefleet`.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._home = place / "home"
        self._home.mkdir()
        # Guides that need files of the checkout begin with `cd imagefleet`.
        (self._home / "imagefleet").symlink_to(ROOT)
        self._terminals: dict[str, Terminal] = {}

    def run(self, step: Step) -> None:
        """Run a block as its page says.

        Raises:
            GuideError: the commands do something else than the page says.
        """
        if step.action is Action.SKIP:
            return
        terminal = self._terminal(step.terminal)
        terminal.wait(PATIENCE_SECONDS)
        terminal.start(step.commands)
        if step.action in {Action.BACKGROUND, Action.INTERRUPT, Action.CUT_POWER}:
            happened = _event(step.argument, terminal)
            _wait_until(lambda: happened() or not terminal.is_running(), step.argument, terminal)
            if not happened():
                raise GuideError(f"the commands ended before this: {step.argument}\n{terminal.output}")
        if step.action is Action.INTERRUPT:
            terminal.interrupt()
        elif step.action is Action.CUT_POWER:
            terminal.cut_power()
        if step.action in {Action.RUN, Action.FAIL, Action.INTERRUPT}:
            status = terminal.wait(PATIENCE_SECONDS)
            wanted = {Action.RUN: status == 0, Action.FAIL: status != 0}.get(step.action, status in {0, 130})
            if not wanted:
                raise GuideError(f"exit status {status}:\n{terminal.output}")
        _check_output(step.output, terminal)

    def close(self) -> None:
        """Press Ctrl-C in all terminals, then kill what still runs."""
        for terminal in self._terminals.values():
            terminal.interrupt()
        for terminal in self._terminals.values():
            with suppress(GuideError):
                terminal.wait(_GRACE_SECONDS)
            terminal.cut_power()

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            state = self._place / f"terminal-{len(self._terminals)}"
            self._terminals[name] = Terminal(state, self._home)
        return self._terminals[name]


def _event(text: str, terminal: Terminal) -> Callable[[], bool]:
    """Return a function that says whether an event has happened."""
    if printed := re.fullmatch(r'"(.+)" is printed', text):
        return lambda: printed[1] in terminal.output
    if exists := re.fullmatch(r"(\S+) exists", text):
        return lambda: any(terminal.folder.glob(exists[1]))
    raise GuideError(f"unknown event: {text}")


def _wait_until(condition: Callable[[], bool], what: str, terminal: Terminal) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > ends:
            raise GuideError(f"waited in vain for: {what}\n{terminal.output}")
        time.sleep(0.02)


def _check_output(lines: tuple[str, ...], terminal: Terminal) -> None:
    """Wait until the output has these lines, in this order."""
    patterns = [_pattern(line) for line in lines if line.strip()]

    def is_complete() -> bool:
        shown = iter([" ".join(line.split()) for line in terminal.output.splitlines()])
        return all(any(pattern.fullmatch(line) for line in shown) for pattern in patterns)

    _wait_until(lambda: is_complete() or not terminal.is_running(), "the documented output", terminal)
    if not is_complete():
        wanted = "\n".join(lines)
        raise GuideError(f"the output lacks a documented line.\nDocumented:\n{wanted}\nPrinted:\n{terminal.output}")


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, " ".join(line.split()).split("…"))))


def run_page(page: Path, place: Path) -> Iterator[str]:
    """Run all blocks of a page in an empty folder, and yield a sentence about each.

    Raises:
        GuideError: the commands do something else than the page says.
    """
    guide = Guide(place)
    try:
        for step in read_steps(page):
            begun = time.monotonic()
            try:
                guide.run(step)
            except GuideError as error:
                raise GuideError(f"{page.name}, line {step.line}: {error}") from error
            first = step.commands.strip().partition("\n")[0]
            took = f"not run: {step.argument}" if step.action is Action.SKIP else f"{time.monotonic() - begun:.1f} s"
            yield f"line {step.line}: {first} ({took})"
    finally:
        guide.close()


def main() -> None:
    """Run the commands of the page that the command line names."""
    # A background shell may have switched Ctrl-C off for its commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    page = Path(sys.argv[1])
    # The commands use this environment's programs and this checkout.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(ROOT)
    for name in [name for name in os.environ if name.startswith("IMAGEFLEET_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="guide-") as place:
        try:
            for sentence in run_page(page, Path(place)):
                sys.stdout.write(f"{sentence}\n")
                sys.stdout.flush()
        except GuideError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
