"""The tutorial and the how-to guides do what they say: their commands run as they stand on the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import lacking, required
from tests.integration.processes import ROOT

_GUIDES = [ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
#: A network that is only loopback, in which the documented ports are free, and folders of the system that a guide may
#: change. ``$0`` is an empty folder, and the other arguments are the command.
_NAMESPACE = """
ip link set lo up
mkdir "$0/etc" && cp -a /etc/. "$0/etc" && echo '127.0.0.1 redis.example.com' >>"$0/etc/hosts"
mount --bind "$0/etc" /etc
mount -t tmpfs none /srv && mkdir /srv/images && mount -t tmpfs none /var/lib
exec "$@"
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", _GUIDES, ids=lambda page: page.stem)
def test_guide_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Each block of commands runs, ends as the page says, and prints the documented lines."""
    if os.geteuid() != 0:
        lacking("only root can create the namespaces")
    for program in ("curl", "ip", "openssl", "prometheus", "redis-server", "unshare"):
        required(program)
    argv = [required("unshare"), "--net", "--mount", "sh", "-ec", _NAMESPACE, str(tmp_path)]
    argv += [sys.executable, "-m", "docs.guide_runner", str(page)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("\n") >= 2
