"""Real workers either refuse an unverifiable server's images and give a reason, or save and mark these images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.certificates import Authority
from tests.integration import processes
from tests.unit.conftest import Canned, always, image, response
from tests.unit.download.test_tls import PAST, server_context

_PNG = response(image())


class Site:
    """Three servers: one with a valid certificate, one with an expired certificate, and one without TLS."""

    def __init__(self, folder: Path, stack: ExitStack, plain: str) -> None:
        """Create the certificates and start the TLS servers. The server without TLS already runs."""
        root = Authority(folder / "root", "Root")
        good, expired = (server_context(root.issue(name, dates=dates)) for name, dates in (("a", ()), ("b", PAST)))
        replies = iter([response(b"", "404 Not Found")])
        self.urls = {
            "good": stack.enter_context(Canned(always(_PNG), good)).url,
            "expired": stack.enter_context(Canned(always(_PNG), expired)).url,
            "expired, later": stack.enter_context(Canned(lambda _: [next(replies, _PNG)], expired)).url,
            "no TLS": plain.replace("http:", "https:"),
        }
        self.source = folder / "urls.txt"
        self.source.write_text("".join(f"{url}/images/1.png\n" for url in self.urls.values()))
        self.env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_CA_BUNDLE": str(root.certificate)}
        self.permissive = {**self.env, "IMAGEFLEET_ALLOW_INSECURE_TLS": "true"}

    def rows(self, out: Path) -> dict[str, tuple[Any, ...]]:
        """Return the manifest's values for each server's image."""
        table = pq.read_table(out / "00000.parquet", columns=["status", "reason", "error_message", "tls_unverified"])
        return {name: tuple(row.values()) for name, row in zip(self.urls, table.to_pylist(), strict=True)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, demo_url: str) -> Iterator[Site]:
    """Give the TLS servers and the list of their images."""
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("site"), stack, demo_url)


def test_insecure_run_and_its_retry(site: Site, tmp_path: Path) -> None:
    """A local fleet inherits the permission for --insecure. Manifests mark unverified images, even after a retry."""
    out = tmp_path / "out"
    arguments = ("run", site.source, "--out", out, "--workers", "1", "--insecure", "--json")
    assert processes.producer(*arguments, env=site.permissive).json()["success"] == 2
    before = site.rows(out)
    assert before["good"] == ("success", None, None, False)
    assert before["expired"] == ("success", None, None, True)
    assert before["expired, later"][1:] == ("http_4xx", "HTTP 404 Not Found", False)
    assert before["no TLS"][1] == "tls"
    assert str(before["no TLS"][2]).endswith("it answers without TLS, like an http:// server")
    assert json.loads((out / "run.json").read_text())["options"]["fetch"]["insecure"] is True
    processes.producer("retry", out, "--all", "--workers", "1", "--json", env=site.permissive)
    assert site.rows(out) == {**before, "expired, later": ("success", None, None, True)}


@pytest.mark.slow
def test_verifying_run_names_the_reason(site: Site, tmp_path: Path) -> None:
    """Without --insecure, an expired certificate is a failure whose message names the option."""
    out = tmp_path / "out"
    processes.producer("run", site.source, "--out", out, "--workers", "1", "--json", env=site.permissive)
    found = site.rows(out)
    assert found["good"] == ("success", None, None, False)
    status, reason, message, marked = found["expired"]
    assert (status, reason, marked) == ("failed_to_download", "tls", False)
    assert message.endswith(": its certificate has expired (use --insecure to download it anyway)")


def test_local_fleet_without_the_permission_is_refused_early(site: Site, tmp_path: Path) -> None:
    """If the environment of a local fleet does not permit --insecure, the run does not start."""
    ended = processes.producer("run", site.source, "--out", tmp_path / "out", "--insecure", "--json", env=site.env)
    assert ended.code == 2
    assert processes.error_parts(ended) == (
        "--insecure is not allowed here",
        "IMAGEFLEET_ALLOW_INSECURE_TLS is not set, and insecure TLS needs the permission of the workers' operator",
        "Set IMAGEFLEET_ALLOW_INSECURE_TLS=true, or omit --insecure.",
    )
    assert not (tmp_path / "out").exists()


def test_workers_without_the_permission_are_refused(fleet: str, site: Site, out: Path) -> None:
    """If no worker permits --insecure, the run does not start, whatever the producer's environment says."""
    arguments = ("run", site.source, "--out", out, "--broker", fleet, "--insecure", "--json")
    ended = processes.producer(*arguments, env=site.permissive)
    assert (ended.code, processes.error_parts(ended)[0]) == (2, "No worker allows --insecure")
    assert "second@" in processes.error_parts(ended)[1]
    assert not out.exists()


def test_permission_does_not_apply_to_redis(tmp_path: Path, site: Site) -> None:
    """A broker URL without certificate verification is still refused."""
    arguments = (
        "run",
        site.source,
        "--out",
        tmp_path / "out",
        "--broker",
        "rediss://redis.example/0?ssl_cert_reqs=none",
    )
    ended = processes.producer(*arguments, "--insecure", env=site.permissive)
    assert ended.code == 2
    assert "would not be verified" in ended.err
