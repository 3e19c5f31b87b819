"""Build the documentation as a site in ``build/site/html`` (``make site``). Needs the dev extra.

The site's pages are the Markdown files of the repository, at the same paths, so that a relative link leads to the same
place on the site and on GitHub. ``zensical.toml`` lists the pages. The files to which pages link, such as pictures and
examples of settings, become part of the site too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
CONFIG = Path(__file__).with_name("zensical.toml")
FOLDER = ROOT / "build" / "site"
STYLE = ("docs/site.css", "docs/site.js")
#: A link of Markdown, or an attribute of HTML in Markdown.
_TARGETS = re.compile(r"\]\(([^)\s]+)\)|(?:href|src|srcset)=\"([^\"]+)\"")


def pages(navigation: Any = None) -> Iterator[str]:
    """Yield the paths of all pages in the navigation, relative to the repository."""
    if navigation is None:
        navigation = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]
    if isinstance(navigation, str):
        yield navigation
        return
    for entry in navigation.values() if isinstance(navigation, dict) else navigation:
        yield from pages(entry)


def stage(folder: Path) -> None:
    """Copy the pages, the files to which they link, and the configuration into a folder."""
    source = folder / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    listed = list(pages())
    for name in {*listed, *linked_files(listed), *STYLE}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    shutil.copyfile(CONFIG, folder / CONFIG.name)


def linked_files(names: Iterable[str]) -> set[str]:
    """Return the files of the repository to which these pages link, without the other pages."""
    found = set()
    for name in names:
        for groups in _TARGETS.findall((ROOT / name).read_text(encoding="utf-8")):
            target = urlsplit(groups[0] or groups[1])
            path = ((ROOT / name).parent / unquote(target.path)).resolve()
            if not target.scheme and path.is_file() and path.suffix != ".md" and path.is_relative_to(ROOT):
                found.add(path.relative_to(ROOT).as_posix())
    return found


def build(folder: Path = FOLDER) -> Path:
    """Build the site in a folder, check its links, and return the folder with its HTML.

    zensical checks the links between pages. lychee checks all other links and anchors, also those in HTML and those of
    the theme. Links to other hosts are not followed.

    Raises:
        SystemExit: a link leads nowhere.
    """
    stage(folder)
    site = folder / "html"
    zensical = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", str(folder / CONFIG.name)]
    lychee = [
        _program("lychee"),
        "--offline",
        "--include-fragments",
        "--no-progress",
        "--root-dir",
        str(site),
        str(site),
    ]
    for argv in (zensical, lychee):
        if subprocess.run(argv, cwd=folder, check=False).returncode:
            sys.exit("The site has faults.")
    return site


def _program(name: str) -> str:
    """Return the path of a program of this environment, which may not be activated."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return found or sys.exit(f"{name} is not installed: pip install -e '.[dev]'")


def main() -> None:
    """Build the site, and say how to look at it."""
    place = build()
    look = f"python -m http.server --bind 127.0.0.1 -d {place} 8000"
    sys.stdout.write(f"{len(list(pages()))} pages in {place}. To read them: {look}\n")


if __name__ == "__main__":
    main()
