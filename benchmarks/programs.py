"""Find the measured programs and the required tools: their paths and versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

IMG2DATASET = Path(os.environ.get("IMG2DATASET", Path(__file__).parents[1] / ".bench" / "bin" / "img2dataset"))


@dataclass(frozen=True)
class Program:
    """A program, the command that prints its version, and a hint for its installation."""

    name: str
    version: tuple[str, ...]
    install: str

    @property
    def path(self) -> str | None:
        """The program's path, or None.

        /usr/sbin is searched too, because servers are installed there and a user's PATH may lack this folder.
        """
        return shutil.which(self.name) or shutil.which(self.name, path="/usr/sbin:/usr/local/sbin")

    def required(self) -> str:
        """Return its path.

        Raises:
            RuntimeError: the program is not installed.
        """
        if self.path is None:
            raise RuntimeError(f"{self.name} is not installed: {self.install}")
        return self.path

    def installed(self) -> str | None:
        """Return the program's version, or None if the program is not installed."""
        if self.path is None:
            return None
        argv = [self.path if word == self.name else word for word in self.version]
        ended = subprocess.run(argv, capture_output=True, text=True, check=False, encoding="utf-8")
        found = re.search(r"\d+(\.\d+)+", ended.stdout + ended.stderr)
        return found[0] if found else "unknown"


_ASK_PACKAGE = "from importlib.metadata import version; print(version('img2dataset'))"
NGINX = Program("nginx", ("nginx", "-v"), "Debian's package is nginx-light")
OPENSSL = Program("openssl", ("openssl", "version"), "Debian's package is openssl")
REDIS = Program("redis-server", ("redis-server", "--version"), "Debian's package is redis-server")
ARIA2 = Program("aria2c", ("aria2c", "--version"), "Debian's package is aria2")
CURL = Program("curl", ("curl", "--version"), "Debian's package is curl")
PEER = Program(
    str(IMG2DATASET),
    (str(IMG2DATASET.with_name("python")), "-c", _ASK_PACKAGE),
    "`make bench` installs it; set IMG2DATASET to the path of another one",
)
PY_SPY = Program("py-spy", ("py-spy", "--version"), "the `dev` extra includes it, for Linux and macOS")
_ALL = {"img2dataset": PEER, "aria2": ARIA2, "curl": CURL, "nginx": NGINX, "redis-server": REDIS, "openssl": OPENSSL}


def versions() -> dict[str, str]:
    """Return the versions of all installed programs."""
    return {name: found for name, program in _ALL.items() if (found := program.installed()) is not None}
