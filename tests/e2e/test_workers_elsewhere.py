"""Workers start from docker-compose.workers.yml and work with a producer and a Redis on other hosts.

The Redis has TLS and users.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import need_engine
from tests.integration import processes

#: The id of the ordinary user of the host who owns the shared folder. No account with this id needs to exist.
_USER = 12345
_WORKERS = processes.ROOT / "docker-compose.workers.yml"
#: The required variables in `.env`.
_REQUIRED = ("BROKER_URL", "BROKER_PASSWORD_FILE", "BROKER_CA_FILE", "STORE_ROOTS")

pytestmark = pytest.mark.timeout(900)


class Site:
    """A worker host with its `.env` and shared folder.

    A Compose project has the services of this host and of the other hosts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, folder / "images"
        self.name = f"imagefleet-test-{uuid.uuid4().hex[:8]}"
        self.values = {
            "BROKER_URL": "rediss://imagefleet@redis:6380/0",
            "BROKER_PASSWORD_FILE": str(folder / "etc" / "imagefleet-password"),
            "BROKER_CA_FILE": str(folder / "etc" / "ca.pem"),
            "STORE_ROOTS": str(self.images),
            "ALLOW_NETWORKS": "demo:8765",
        }

    def compose(self, *arguments: str, stdin: str | None = None, **changes: str | None) -> Any:
        """Run a Compose command with the host's `.env` and these changes to its variables; None removes a variable."""
        lines = [f"IMAGEFLEET_{name}={value}" for name, value in {**self.values, **changes}.items() if value]
        (self.folder / "env").write_text("\n".join(lines) + "\n")
        files = [_WORKERS, *self.folder.glob("elsewhere.yml")]
        argv = ["docker", "compose", "-p", self.name, "--progress", "quiet", "--env-file", str(self.folder / "env")]
        argv += [part for file in files for part in ("-f", str(file))]
        env = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEFLEET_")}
        return subprocess.run(
            [*argv, *arguments], env=env, input=stdin, capture_output=True, text=True, timeout=600, check=False
        )

    def check_compose(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a Compose command, check that it succeeds, and return its output."""
        ended = self.compose(*arguments, stdin=stdin)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
        return str(ended.stdout)

    def denied_commands(self) -> str:
        """Return Redis's log of all commands denied so far."""
        login = ["--tls", "--cacert", "/etc/imagefleet/ca.pem", "-h", "redis", "-p", "6380", "--no-auth-warning"]
        password = (self.folder / "etc" / "admin-password").read_text().strip()
        options = [*login, "--user", "admin", "-a", password]
        return self.check_compose("exec", "-T", "redis", "redis-cli", *options, "acl", "log")

    def other_hosts(self) -> dict[str, Any]:
        """Return the services of the other hosts: Redis as in docs/many-machines.md, image server, producer."""
        ours = {"image": self.name, "build": str(processes.ROOT), "init": True}
        ping = "redis-cli --tls --cacert /etc/imagefleet/ca.pem -h redis -p 6380 ping | grep -q NOAUTH"
        return {
            "worker": {"image": self.name},
            "redis": {
                "image": "redis:8",
                "user": "redis",
                "command": "redis-server /etc/imagefleet/redis.conf --include /etc/imagefleet/redis-tls.conf",
                "volumes": [f"{self.folder}/etc:/etc/imagefleet:ro"],
                "healthcheck": {"test": ["CMD-SHELL", ping], "interval": "1s", "retries": 30},
            },
            "demo": {**ours, "command": "python -m producer.demo --host 0.0.0.0 --port 8765"},
            "producer": {
                **ours,
                "profiles": ["run"],
                "user": str(_USER),
                "entrypoint": ["python", "-m", "producer"],
                "environment": {
                    "IMAGEFLEET_BROKER_URL": self.values["BROKER_URL"],
                    "IMAGEFLEET_BROKER_PASSWORD_FILE": "/run/secrets/redis-password",
                    "IMAGEFLEET_BROKER_CA_FILE": "/run/secrets/ca.pem",
                    "MPLCONFIGDIR": "/tmp",
                },
                "secrets": ["redis-password", "ca.pem"],
                "volumes": [f"{self.images}:{self.images}"],
            },
        }


def _create_files(site: Site) -> None:
    """Create the shared folder and an operator's files, which are those in docs/many-machines.md."""
    etc = site.folder / "etc"
    processes.set_up_redis(etc, "DNS:redis")
    site.images.mkdir()
    # The container's user id differs from all user ids here.
    for path in (etc, *etc.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # Only the folder's owner can read the password, as the documentation recommends.
    (etc / "imagefleet-password").chmod(0o400)
    for path in (site.images, etc / "imagefleet-password"):
        os.chown(path, _USER, _USER)
    (site.folder / "elsewhere.yml").write_text(json.dumps({"services": site.other_hosts()}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Start a site with two workers."""
    need_engine()
    if os.geteuid() != 0:
        pytest.skip("only root can change the owner of a folder")
    site = Site(tmp_path_factory.mktemp("elsewhere"))
    _create_files(site)
    try:
        site.check_compose("up", "-d", "--build", "--wait", "--scale", "worker=2")
        yield site
    finally:
        site.compose("down", "-v", "--timeout", "20")
        with suppress(subprocess.SubprocessError):
            subprocess.run(["docker", "image", "rm", site.name], capture_output=True, timeout=60, check=False)


def test_run_saves_to_the_shared_folder(site: Site) -> None:
    """Files are saved in the shared folder and belong to its owner, and Redis denies no command."""
    urls = "".join(f"http://demo:8765/images/{index}.jpg\n" for index in range(250))
    out = site.images / "run"
    arguments = ["run", "--rm", "-T", "producer", "run", "-", "--out", str(out), "--shard-size", "100", "--json"]
    facts = json.loads(site.check_compose(*arguments, stdin=urls))
    assert (facts["total"], facts["success"], facts["shards"], facts["workers"]) == (250, 250, 3, 2)
    assert len(processes.image_files(out)) == 250
    assert {path.stat().st_uid for path in out.rglob("*")} == {_USER}
    assert [row["url"] for row in processes.rows(out)] == urls.split()
    assert site.denied_commands().strip() == ""


def test_worker_is_confined(site: Site) -> None:
    """A worker runs as the shared folder's owner, without capabilities or ports, and with a read-only root."""
    status = site.check_compose(
        "exec", "-T", "worker", "sh", "-c", "grep -l Name:.celery /proc/[0-9]*/status | head -1 | xargs cat"
    )
    found = dict(line.split(":\t", 1) for line in status.splitlines())
    assert found["Uid"].split() == [str(_USER)] * 4
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert found["NoNewPrivs"] == "1"
    config = json.loads(site.check_compose("config", "--format", "json"))["services"]["worker"]
    single_host = subprocess.run(
        ["docker", "compose", "-f", str(processes.ROOT / "docker-compose.yml"), "config", "--format", "json", "worker"],
        capture_output=True,
        check=True,
    )
    theirs = json.loads(single_host.stdout)["services"]["worker"]
    same = ("read_only", "cap_drop", "cap_add", "security_opt", "pids_limit", "logging", "stop_grace_period", "tmpfs")
    assert {name: config[name] for name in same} == {name: theirs[name] for name in same}
    assert "ports" not in config


def test_workers_stop_cleanly_and_restart(site: Site) -> None:
    """Stopped workers exit with status 0 and can be started again. Redis denies none of their commands."""
    site.check_compose("stop", "worker")
    states = [json.loads(line) for line in site.check_compose("ps", "-a", "--format", "json", "worker").splitlines()]
    assert [state["ExitCode"] for state in states] == [0, 0]
    assert "NOPERM" not in site.check_compose("logs", "worker")
    assert site.denied_commands().strip() == ""
    site.check_compose("up", "-d", "--wait", "--scale", "worker=2")


def test_reports_a_missing_shared_folder(site: Site) -> None:
    """A missing shared folder is reported, and no empty folder is created in its place."""
    missing = site.folder / "not-mounted"
    ended = site.compose("run", "--rm", "-T", "--no-deps", "worker", "true", STORE_ROOTS=str(missing))
    assert ended.returncode != 0
    assert "not-mounted" in ended.stderr
    assert not missing.exists()


@pytest.mark.parametrize("name", _REQUIRED)
def test_reports_a_missing_variable(name: str, tmp_path: Path) -> None:
    """A missing variable is reported with its name and purpose."""
    need_engine()
    ended = Site(tmp_path).compose("config", **{name: None})
    assert ended.returncode != 0
    assert f"required variable IMAGEFLEET_{name} is missing a value: the " in ended.stderr
