"""In a clean clone, `docker compose up` starts a fleet. The runs of the fleet save files that the user owns."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from tests.e2e.stack import Stack, clone, need_engine, up
from tests.waiting import wait_for

#: The id of an ordinary user of the host. No account with this id needs to exist.
_USER = 12345

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=[0, _USER], ids=["root", "ordinary user"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start a stack with two workers in a clone owned by root or by an ordinary user."""
    need_engine()
    with up(clone(tmp_path_factory.mktemp("compose") / "clone", request.param), workers=2) as found:
        yield found


def test_demo_runs(stack: Stack) -> None:
    """The demo runs on the fleet without internet, and its files belong to the folder's owner."""
    owner = (stack.folder / "images").stat().st_uid
    numbers = stack.produce("demo")
    assert [(way["name"], way["success"], way["failed"]) for way in numbers["ways"]] == [
        ("one by one", 10, 0),
        ("threads", 10, 0),
        ("fleet", 10, 0),
    ]
    files = [path for path in (stack.folder / "images" / "imagefleet-demo").rglob("*") if path.is_file()]
    assert len([path for path in files if path.parent.name == "00000"]) == 30
    assert {path.stat().st_uid for path in files} == {owner}


def test_downloads_a_list_from_stdin(stack: Stack) -> None:
    """All 500 images of a list on stdin are saved, and each image has one row."""
    urls = "".join(f"http://demo:8765/images/{index}.jpg?latency=0\n" for index in range(500))
    numbers = stack.produce("run", "-", "--out", "/images/piped", stdin=urls)
    assert (numbers["total"], numbers["success"], numbers["workers"]) == (500, 500, 2)
    out = stack.folder / "images" / "piped"
    rows = pq.ParquetFile(out / "00000.parquet").read().to_pylist()
    assert [row["url"] for row in rows] == urls.split()
    assert {(out / row["path"]).stat().st_uid for row in rows} == {(stack.folder / "images").stat().st_uid}


def test_downloads_a_list_from_the_lists_folder(stack: Stack) -> None:
    """The producer can read a file in ./lists."""
    (stack.folder / "lists" / "three.txt").write_text(
        "".join(f"http://demo:8765/images/{index}.png?latency=0\n" for index in range(3))
    )
    assert stack.produce("run", "/lists/three.txt", "--out", "/images/listed")["success"] == 3


def test_only_flower_is_published(stack: Stack) -> None:
    """Only Flower listens on the host, and only on loopback."""
    ports = [
        (service["Service"], publisher["URL"], publisher["PublishedPort"])
        for service in map(json.loads, stack.compose("ps", "--format", "json").splitlines())
        for publisher in service["Publishers"] or ()
        if publisher["PublishedPort"]
    ]
    assert ports == [("flower", "127.0.0.1", 5555)]


#: Reads the metrics of every container of the service `worker` at the addresses that Prometheus would use.
_READ_WORKERS = """
import socket, urllib.request
found = {address[4][0] for address in socket.getaddrinfo("worker", 9750, socket.AF_INET, socket.SOCK_STREAM)}
for address in found:
    text = urllib.request.urlopen(f"http://{address}:9750/metrics").read().decode()
    print(text.count("imagefleet_slots 16.0"))
"""


def test_prometheus_can_read_each_worker(stack: Stack) -> None:
    """Compose's name server knows each worker's address, and each worker serves its metrics to other containers."""
    assert stack.compose("exec", "-T", "demo", "python", "-c", _READ_WORKERS).split() == ["1", "1"]


def test_redis_requires_its_password(stack: Stack) -> None:
    """Redis refuses commands without a password, even inside the network."""
    reply = stack.compose("exec", "-T", "redis", "redis-cli", "ping", check=False)
    assert "NOAUTH" in reply


@pytest.mark.parametrize(
    "path", ["/", "/tasks", "/api/workers", "/api/tasks", "/static/css/flower.css", "/logout", "/nowhere"]
)
def test_flower_requires_its_password(stack: Stack, path: str) -> None:
    """Every page requires the right password, even a page that Flower normally leaves open."""
    assert _status(path) == 401
    assert _status(path, "imagefleet:wrong") == 401
    assert _status(path, f"imagefleet:{stack.password('Flower')}") in (200, 404)


@pytest.mark.parametrize("path", ["/metrics", "/healthcheck"])
def test_monitoring_needs_no_password(stack: Stack, path: str) -> None:
    """The monitoring pages need no password on loopback."""
    assert _status(path) == 200


def test_flower_is_read_only(stack: Stack) -> None:
    """Flower's API refuses to send a task."""
    login = f"imagefleet:{stack.password('Flower')}"
    assert _status("/api/task/send-task/tasks.jobs.fetch_image", login, b'{"args": []}') == 403


def test_flower_shows_workers_and_failures(stack: Stack) -> None:
    """Flower shows both workers with their slots. It shows a failed image as a failed task that has the image's URL."""
    login = f"imagefleet:{stack.password('Flower')}"
    workers = json.loads(_get("/api/workers?refresh=1", login))
    assert [worker["stats"]["pool"]["max-concurrency"] for worker in workers.values()] == [16, 16]
    url = "http://demo:8765/fault/not-found"
    numbers = stack.produce("run", "-", "--out", "/images/failing", stdin=url)
    assert numbers["reasons"] == {"http_4xx": 1}

    def final_states() -> list[str]:
        tasks = json.loads(_get("/api/tasks?sort_by=-received", login)).values()
        return [task["state"] for task in tasks if url in task["args"] and task["state"] != "STARTED"]

    wait_for(lambda: bool(final_states()), 10)
    assert final_states() == ["FAILURE"]


def test_restart_keeps_the_passwords(stack: Stack) -> None:
    """A second start does not change the passwords."""
    before = stack.password("Redis"), stack.password("Flower")
    stack.compose("up", "-d", "--wait", "--scale", "worker=2")
    assert (stack.password("Redis"), stack.password("Flower")) == before


def test_down_removes_everything_but_images(stack: Stack) -> None:
    """`down -v` removes all containers, networks and volumes, and keeps the images."""
    stack.compose("down", "-v", "--timeout", "20")
    label = f"label=com.docker.compose.project={stack.name}"
    for kind in (["ps", "-aq"], ["network", "ls", "-q"], ["volume", "ls", "-q"]):
        listed = subprocess.run(["docker", *kind, "--filter", label], capture_output=True, text=True, check=True)
        assert listed.stdout == ""
    assert (stack.folder / "images" / "piped" / "run.json").exists()


def _request(path: str, login: str | None, body: bytes | None = None) -> urllib.request.Request:
    headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
    return urllib.request.Request(f"http://127.0.0.1:5555{path}", data=body, headers=headers)


def _get(path: str, login: str | None = None) -> str:
    with urllib.request.urlopen(_request(path, login), timeout=10) as response:
        return str(response.read().decode())


def _status(path: str, login: str | None = None, body: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(_request(path, login, body), timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
