"""A separate Compose project for tests, in a clone of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacking, required
from tests.integration.processes import ROOT

_DEMO_PORT = 8765


class Stack:
    """A clone of the repository with its own Compose project.

    Args:
        folder: the clone.
        environment: variables for Compose in addition to this process's environment.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.name = f"imagefleet-test-{uuid.uuid4().hex[:8]}"
        self.environment = {**os.environ, **environment}

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a Compose command in the clone; return its output."""
        done = subprocess.run(
            self._argv(arguments),
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def produce(self, *arguments: str, stdin: str | None = None) -> dict[str, Any]:
        """Run the producer in its container; return its JSON."""
        return dict(json.loads(self.compose("run", "--rm", "-T", "producer", *arguments, "--json", stdin=stdin)))

    @contextmanager
    def start_producer(self, log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Yield a running producer; its JSON goes to stdout, all other output to `log`."""
        argv = self._argv(("run", "--rm", "-T", "producer", *arguments, "--json"))
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                argv, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        try:
            yield process
        finally:
            # The producer's container is removed together with the stack.
            process.kill()
            process.communicate()

    def hits(self, route: str = "/images") -> int:
        """Return the number of requests to a route of the demo server since the server's start."""
        code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{_DEMO_PORT}/stats').read().decode())"
        return int(json.loads(self.compose("exec", "-T", "demo", "python", "-c", code)).get(route, 0))

    def password(self, service: str) -> str:
        """Return the password of Flower or Redis that the README's command prints."""
        lines = self.compose("run", "--rm", "passwords").splitlines()
        return next(line for line in lines if line.startswith(service)).split("password ")[1].strip()

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        return ["docker", "compose", "-p", self.name, "--progress", "quiet", *arguments]


def need_engine() -> None:
    """Skip a test if there is no Docker Engine; in CI, fail it instead."""
    if subprocess.run([required("docker"), "compose", "ls"], capture_output=True, check=False).returncode:
        lacking("no Docker Engine with Compose is running on this machine")


def clone(folder: Path, owner: int) -> Path:
    """Make a clean clone of the last commit, with `owner` as the owner of all files."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    if owner != os.geteuid():
        if os.geteuid() != 0:
            pytest.skip("only root can change the owner of a folder")
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner, owner, follow_symlinks=False)
    return folder


@contextmanager
def up(folder: Path, workers: int, **environment: str) -> Iterator[Stack]:
    """Start a stack with some workers; at the end, remove the stack and its volumes."""
    stack = Stack(folder, environment)
    try:
        stack.compose("up", "-d", "--build", "--wait", "--scale", f"worker={workers}")
        yield stack
    finally:
        stack.compose("down", "-v", "--timeout", "20", check=False)
