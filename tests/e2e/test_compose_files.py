"""Compose and the engine confirm the guarantees of the Compose files and of the Docker image."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config import limits
from tests.e2e.stack import need_engine
from tests.integration.processes import ROOT

#: The services that run once: two services create or show the passwords, and the third service is the producer.
_ONCE = {"secrets", "passwords", "producer"}
_LONG_RUNNING = ["redis", "worker", "flower", "demo", "prometheus", "grafana"]
#: The services of the profile `monitoring`.
_MONITORING = {"prometheus", "grafana"}


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    need_engine()


def config(folder: Path = ROOT, **environment: str) -> dict[str, Any]:
    """Return the services of all profiles as Compose reads them; fail if Compose prints a warning."""
    done = subprocess.run(
        ["docker", "compose", "--profile", "*", "config", "--format", "json"],
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout)["services"])


@pytest.mark.parametrize("name", _LONG_RUNNING)
def test_long_running_services_are_supervised(name: str) -> None:
    """Every long-running service has a health check, restarts after a crash, and limits its logs."""
    service = config()[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert "stop_grace_period" in service


def test_every_service_is_tested() -> None:
    """The tests in this file cover every service of the Compose files."""
    assert set(config()) == {*_LONG_RUNNING, *_ONCE}


@pytest.mark.parametrize("name", [*_LONG_RUNNING, *sorted(_ONCE)])
def test_services_are_confined(name: str) -> None:
    """Every service has a read-only root, only the listed capabilities, and limits on memory and processes."""
    service = config()[name]
    assert service["init"] is True
    assert service["read_only"] is True
    # Grafana's database is in memory.
    assert service["tmpfs"] == (["/tmp", "/var/lib/grafana"] if name == "grafana" else ["/tmp"])
    assert service["cap_drop"] == ["ALL"]
    changes_user = name in ("worker", "producer")
    assert service.get("cap_add", []) == (["SETUID", "SETGID", "SETPCAP", "KILL"] if changes_user else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["mem_limit"]) > 0
    assert service["pids_limit"] > 0
    assert "privileged" not in service
    assert not any("docker.sock" in volume["source"] for volume in service.get("volumes", []))


def test_stopped_worker_can_finish_its_downloads() -> None:
    """The stop grace period of a worker is longer than the longest download."""
    period = config()["worker"]["stop_grace_period"]
    minutes, seconds = period.removesuffix("s").split("m")
    assert int(minutes) * 60 + int(seconds) > limits.MAX_DEADLINE


@pytest.mark.parametrize("offset", [0, 444])
def test_only_pages_for_people_are_published(offset: int) -> None:
    """Only the ports of Flower, Prometheus and Grafana are published, always on loopback. The numbers can be set."""
    ports = {"flower": 5555, "prometheus": 9090, "grafana": 3000}
    chosen = {f"{name.upper()}_PORT": str(port + offset) for name, port in ports.items()}
    services = config(ROOT, **chosen) if offset else config()
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == set(ports)
    for name, port in ports.items():
        (one,) = published[name]
        assert (one["host_ip"], one["published"], one["target"]) == ("127.0.0.1", str(port + offset), port)


def test_monitoring_starts_on_request() -> None:
    """Prometheus and Grafana start only with the profile `monitoring`. Their files exist and are read-only."""
    services = config()
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == _MONITORING
    for name in _MONITORING:
        for volume in services[name]["volumes"]:
            assert volume.get("read_only") or volume["source"] == "prometheus"
            assert volume["type"] == "volume" or Path(volume["source"]).is_file()
    grafana = services["grafana"]["environment"]
    assert grafana["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/secrets/grafana-password"


def test_workers_serve_metrics_inside_the_project() -> None:
    """Prometheus reads each worker at the port where it serves its metrics. An empty variable turns the metrics off."""
    jobs = (ROOT / "config" / "monitoring" / "prometheus-compose.yml").read_text()
    assert "names: [worker], type: A, port: 9750" in jobs
    worker, producer = (config()[name]["environment"] for name in ("worker", "producer"))
    assert (worker["IMAGEFLEET_METRICS_PORT"], worker["IMAGEFLEET_METRICS_ADDRESS"]) == ("9750", "0.0.0.0")
    assert producer["IMAGEFLEET_METRICS_ADDRESS"] == "0.0.0.0"
    assert config(IMAGEFLEET_METRICS_PORT="")["worker"]["environment"]["IMAGEFLEET_METRICS_PORT"] == ""


def test_environment_configures_the_services() -> None:
    """The environment or the file .env can set the slots, log level, memory, events, networks and proxy."""
    services = config(
        WORKER_CONCURRENCY="3",
        WORKER_LOGLEVEL="INFO",
        WORKER_MEMORY="512m",
        REDIS_MEMORY="256m",
        IMAGEFLEET_TASK_EVENTS="off",
        IMAGEFLEET_ALLOW_NETWORKS="10.0.0.0/8",
        IMAGEFLEET_PROXY="http://proxy.internal:3128",
    )
    worker = services["worker"]
    assert (worker["environment"]["WORKER_CONCURRENCY"], worker["environment"]["WORKER_LOGLEVEL"]) == ("3", "INFO")
    assert worker["environment"]["IMAGEFLEET_ALLOW_NETWORKS"] == "demo:8765,10.0.0.0/8"
    assert worker["environment"]["IMAGEFLEET_PROXY"] == "http://proxy.internal:3128"
    assert (worker["mem_limit"], services["redis"]["mem_limit"]) == (str(512 * 2**20), str(256 * 2**20))
    assert {services[name]["environment"]["IMAGEFLEET_TASK_EVENTS"] for name in ("worker", "flower")} == {"off"}


@pytest.mark.parametrize("prefix", ["", "watch", "/watch/"])
def test_flower_uses_its_prefix(prefix: str) -> None:
    """Flower, Flower's health check and the command that prints Flower's address all use the configured URL prefix."""
    services = config(FLOWER_URL_PREFIX=prefix)
    assert {services[name]["environment"]["FLOWER_URL_PREFIX"] for name in ("flower", "passwords")} == {prefix}
    # `config.healthcheck` collapses repeated slashes.
    assert services["flower"]["healthcheck"]["test"][-1] == f"http://127.0.0.1:5555/{prefix}/healthcheck"


def test_image_has_no_build_tools(image: str) -> None:
    """The image runs as an unprivileged user, and contains no compiler and no pip."""
    script = "id -u; command -v gcc cc make pip pip3; find / -xdev -name 'pip*' -path '*opt*' -maxdepth 6; python -V"
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["10001", "Python", *done.stdout.split()[-1:]]


def test_history_contains_no_secret(image: str) -> None:
    """The image's build history contains no password, token or private URL."""
    argv = ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image]
    history = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.lower()
    assert "imagefleet" in history
    assert not any(word in history for word in ("password", "token", "secret=", "://", "index-url"))


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """Build the image and return its name. Afterwards, remove the name."""
    name = "imagefleet-test-image"
    subprocess.run(["docker", "build", "-q", "-t", name, "."], cwd=ROOT, capture_output=True, check=True)
    yield name
    subprocess.run(["docker", "rmi", name], capture_output=True, check=True)
