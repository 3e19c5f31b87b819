"""Fetch the source distributions of installed packages, for their tests and test images."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import click

from tests.integration.processes import ROOT

#: The folder of the source distributions and of the tests' output, which git ignores.
FOLDER = ROOT / ".upstream"
_LOCK = ROOT / "requirements-dev.lock"


def requirement(distribution: str) -> str:
    """Return pip's requirement for the installed version, with the hashes of the lock file.

    Raises:
        click.ClickException: the lock file has another version.
    """
    pinned = f"{distribution}=={version(distribution)}"
    found = re.search(rf"^{re.escape(pinned)} (?:.*\\\n)*.*", _LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise click.ClickException(f"{pinned} is installed, and {_LOCK.name} has another version")
    return found[0]


def fetched(distribution: str) -> Path:
    """Return the folder with a distribution's tests and their pytest settings. It is fetched once.

    Raises: click.ClickException: the lock file has another version, or pip can't download the installed version.
    """
    # The copy leaves out the package itself. A package beside its tests would be imported instead of the installed
    # package.
    return unpacked(distribution, FOLDER, distribution)


def unpacked(distribution: str, below: Path, without: str) -> Path:
    """Return the folder of a distribution's sources without one subfolder. The sources are fetched once.

    Raises: click.ClickException: the lock file has another version, or pip can't download the installed version.
    """
    folder = below / f"{distribution}-{version(distribution)}"
    if folder.exists():
        return folder
    below.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=below) as name:
        place = Path(name)
        # Wheels are allowed for the build dependencies of the distribution's metadata.
        (place / "wanted.txt").write_text(f"--no-binary {distribution}\n{requirement(distribution)}\n")
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run([*argv, "--dest", place, "-r", place / "wanted.txt"], check=False)
        if done.returncode:
            raise click.ClickException(f"pip could not download the sources of {folder.name}")
        with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
            archive.extractall(place, filter="data")
        made = place / folder.name
        shutil.rmtree(made / without)
        return made.rename(folder)
