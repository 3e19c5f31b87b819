"""Run a local fleet with its Flower, and query Flower."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import processes

_ADDRESS = re.compile(r"Flower is at (http://127\.0\.0\.1:\d+)  \(user imagefleet, password (\S+)\)\n")
_BROKER = re.compile(r"--broker (\S+)\n")


@dataclass(frozen=True)
class Flower:
    """The address and password of a Flower."""

    url: str
    password: str

    def get(self, path: str, password: str | None = None) -> tuple[int, str]:
        """Return the status and the text of a response. With an empty password, send no credentials."""
        login = {"Authorization": f"Basic {b64encode(f'imagefleet:{password}'.encode()).decode()}"} if password else {}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.url}{path}", headers=login), timeout=10
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def tasks(self) -> dict[str, Any]:
        """Return the tasks that Flower knows, by their ids."""
        return dict(json.loads(self.get("/api/tasks", self.password)[1]))


def address(output: str) -> Flower | None:
    """Return the Flower whose address is in a command's output, or None."""
    found = _ADDRESS.search(output)
    return Flower(*found.groups()) if found else None


@dataclass(frozen=True)
class RunningFleet:
    """A running `producer fleet`."""

    command: processes.Background
    flower: Flower
    broker: str
    root: Path

    def run(self, name: str, urls: Sequence[str]) -> dict[str, Any]:
        """Download URLs into a folder of the given name. Return the run's counts."""
        given = "\n".join(urls).encode()
        arguments = ("run", "-", "--out", self.root / name, "--broker", self.broker, "--retries", "0", "--json")
        return processes.producer(*arguments, stdin=given).json()


@contextmanager
def running_fleet(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[RunningFleet]:
    """Run a local fleet until the block ends."""
    argv = processes.command(["fleet", "--store-root", folder, *arguments])
    with processes.started("fleet", argv, folder, env) as command:
        (broker,) = processes.eventually(lambda: _BROKER.findall(command.out), "the fleet")
        flower = address(command.err)
        assert flower is not None
        yield RunningFleet(command, flower, broker, folder)
