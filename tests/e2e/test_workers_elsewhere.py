"""Workers by docker-compose.workers.yml alone, with a Redis of TLS and named users, and a producer, elsewhere."""

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
from tests.integration import parts

#: An ordinary user of the host, who owns the shared folder; the number needs no account.
_USER = 12345
_WORKERS = parts.ROOT / "docker-compose.workers.yml"
#: The variables that `.env` has to hold.
_NEEDED = ("BROKER_URL", "BROKER_PASSWORD_FILE", "BROKER_CA_FILE", "STORE_ROOTS")

pytestmark = pytest.mark.timeout(900)


class Site:
    """A host's `.env`, its shared folder, and the Compose project of what runs there and elsewhere."""

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

    def compose(self, *arguments: str, given: str | None = None, **changes: str | None) -> Any:
        """Run a Compose command with the host's `.env`; a variable that is None is missing there."""
        lines = [f"IMAGEFLEET_{name}={value}" for name, value in {**self.values, **changes}.items() if value]
        (self.folder / "env").write_text("\n".join(lines) + "\n")
        files = [_WORKERS, *self.folder.glob("elsewhere.yml")]
        argv = ["docker", "compose", "-p", self.name, "--progress", "quiet", "--env-file", str(self.folder / "env")]
        argv += [part for file in files for part in ("-f", str(file))]
        env = {name: value for name, value in os.environ.items() if not name.startswith("IMAGEFLEET_")}
        return subprocess.run(
            [*argv, *arguments], env=env, input=given, capture_output=True, text=True, timeout=600, check=False
        )

    def done(self, *arguments: str, given: str | None = None) -> str:
        """Run a Compose command that has to work; return what it printed."""
        ended = self.compose(*arguments, given=given)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
        return str(ended.stdout)

    def denied(self) -> str:
        """Return what Redis has denied so far, to whomever."""
        login = ["--tls", "--cacert", "/etc/imagefleet/ca.pem", "-h", "redis", "-p", "6380", "--no-auth-warning"]
        word = (self.folder / "etc" / "admin-password").read_text().strip()
        return self.done("exec", "-T", "redis", "redis-cli", *login, "--user", "admin", "-a", word, "acl", "log")

    def elsewhere(self) -> dict[str, Any]:
        """Return what the other hosts run: Redis as docs/many-machines.md sets it up, images to fetch, a producer."""
        ours = {"image": self.name, "build": str(parts.ROOT), "init": True}
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


def _files(site: Site) -> None:
    """Make what an operator makes: what docs/many-machines.md says, and the shared folder."""
    etc = site.folder / "etc"
    parts.set_up_redis(etc, "DNS:redis")
    site.images.mkdir()
    # The container's user has another number than that of any user here.
    for path in (etc, *etc.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # As it ought to be: nobody but the folder's owner can read the password.
    (etc / "imagefleet-password").chmod(0o400)
    for path in (site.images, etc / "imagefleet-password"):
        os.chown(path, _USER, _USER)
    (site.folder / "elsewhere.yml").write_text(json.dumps({"services": site.elsewhere()}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Give a site with two workers up."""
    need_engine()
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    site = Site(tmp_path_factory.mktemp("elsewhere"))
    _files(site)
    try:
        site.done("up", "-d", "--build", "--wait", "--scale", "worker=2")
        yield site
    finally:
        site.compose("down", "-v", "--timeout", "20")
        with suppress(subprocess.SubprocessError):
            subprocess.run(["docker", "image", "rm", site.name], capture_output=True, timeout=60, check=False)


def test_run(site: Site) -> None:
    """Files arrive in the shared folder, and belong to its owner; Redis had nothing to deny to anybody."""
    urls = "".join(f"http://demo:8765/images/{index}.jpg\n" for index in range(250))
    out = site.images / "run"
    arguments = ["run", "--rm", "-T", "producer", "run", "-", "--out", str(out), "--shard-size", "100", "--json"]
    facts = json.loads(site.done(*arguments, given=urls))
    assert (facts["total"], facts["success"], facts["shards"], facts["workers"]) == (250, 250, 3, 2)
    assert len(parts.image_files(out)) == 250
    assert {path.stat().st_uid for path in out.rglob("*")} == {_USER}
    assert [row["url"] for row in parts.rows(out)] == urls.split()
    assert site.denied().strip() == ""


def test_worker_is_confined(site: Site) -> None:
    """A worker runs as the shared folder's owner, with no capability, a root that it can't write, and no port."""
    status = site.done(
        "exec", "-T", "worker", "sh", "-c", "grep -l Name:.celery /proc/[0-9]*/status | head -1 | xargs cat"
    )
    found = dict(line.split(":\t", 1) for line in status.splitlines())
    assert found["Uid"].split() == [str(_USER)] * 4
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert found["NoNewPrivs"] == "1"
    config = json.loads(site.done("config", "--format", "json"))["services"]["worker"]
    whole = subprocess.run(
        ["docker", "compose", "-f", str(parts.ROOT / "docker-compose.yml"), "config", "--format", "json", "worker"],
        capture_output=True,
        check=True,
    )
    theirs = json.loads(whole.stdout)["services"]["worker"]
    same = ("read_only", "cap_drop", "cap_add", "security_opt", "pids_limit", "logging", "stop_grace_period", "tmpfs")
    assert {name: config[name] for name in same} == {name: theirs[name] for name in same}
    assert "ports" not in config


def test_worker_that_is_stopped(site: Site) -> None:
    """Workers end when they are asked to, without a word of anything denied, and come back."""
    site.done("stop", "worker")
    states = [json.loads(line) for line in site.done("ps", "-a", "--format", "json", "worker").splitlines()]
    assert [state["ExitCode"] for state in states] == [0, 0]
    assert "NOPERM" not in site.done("logs", "worker")
    assert site.denied().strip() == ""
    site.done("up", "-d", "--wait", "--scale", "worker=2")


def test_share_that_is_not_there(site: Site) -> None:
    """A shared folder that is missing is told; no empty one is made in its place."""
    missing = site.folder / "not-mounted"
    ended = site.compose("run", "--rm", "-T", "--no-deps", "worker", "true", STORE_ROOTS=str(missing))
    assert ended.returncode != 0
    assert "not-mounted" in ended.stderr
    assert not missing.exists()


@pytest.mark.parametrize("name", _NEEDED)
def test_variable_that_is_missing(name: str, tmp_path: Path) -> None:
    """Whatever is not set is named, with what it is for."""
    need_engine()
    ended = Site(tmp_path).compose("config", **{name: None})
    assert ended.returncode != 0
    assert f"required variable IMAGEFLEET_{name} is missing a value: the " in ended.stderr
