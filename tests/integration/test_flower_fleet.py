"""A local fleet's Flower: where it is, who may look, what it hears, and that it ends with the fleet."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from producer.keeping import ROOT
from tests.flower import address, kept_fleet
from tests.integration import parts

_PRESS = "any key ends it"


@contextmanager
def taken(port: int) -> Iterator[None]:
    """See that somebody listens at a port: this test, or whoever was there before it."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def flower_of(family: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes among these that are Flower."""
    return [process for process in family if "flower" in process.cmdline()]


@pytest.mark.slow
def test_flower_below_a_prefix(tmp_path: Path) -> None:
    """With FLOWER_URL_PREFIX, all of Flower is below it, asks for its password, and the health check finds it there."""
    with kept_fleet(tmp_path, "--workers", "1", env={"FLOWER_URL_PREFIX": "/watch/"}) as fleet:
        for path in ("/", "/tasks", "/api/workers", "/static/css/flower.css"):
            assert fleet.flower.get(f"/watch{path}", None)[0] == 401
            assert fleet.flower.get(f"/watch{path}", fleet.flower.password)[0] == 200
            assert fleet.flower.get(path, fleet.flower.password)[0] == 404
        # As docker-compose.yml writes it, with the prefix as it is given.
        for prefix, status in (("/watch/", 0), ("", 1)):
            argv = [sys.executable, "-m", "config.alive", f"{fleet.flower.url}/{prefix}/healthcheck"]
            assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode == status


def test_kept_fleet_has_flower(tmp_path: Path, demo_url: str) -> None:
    """`producer fleet` tells where Flower is; only its password opens it, and it listens on loopback alone.

    It hears of every image, and of a shard that can't be collected; its processes end with the fleet.
    """
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with kept_fleet(tmp_path, "--workers", "1", env=env) as fleet:
        family = fleet.command.descendants()
        (flower,) = flower_of(family)
        port = int(fleet.flower.url.rpartition(":")[2])
        assert [connection.laddr for connection in flower.net_connections("tcp") if connection.status == "LISTEN"] == [
            ("127.0.0.1", port)
        ]
        for password, status in ((None, 401), ("wrong", 401), (fleet.flower.password, 200)):
            for path in ("/", "/tasks", "/api/workers", "/static/css/flower.css"):
                assert fleet.flower.get(path, password)[0] == status
        assert fleet.flower.password not in str([process.cmdline() for process in family])
        fleet.run("heard", [f"{demo_url}/images/1.jpg", f"{demo_url}/fault/not-found"])
        parts.eventually(
            lambda: (
                sorted(task["state"] for task in fleet.flower.tasks().values()) == ["FAILURE", "SUCCESS", "SUCCESS"]
            ),
            "the states of two images and a shard",
        )
        arguments = ("run", "-", "--out", tmp_path / "broken", "--broker", fleet.broker)
        slow = f"{demo_url}/images/1.jpg?latency=2".encode()
        before = parts.request_count(demo_url, "/images")
        with parts.started("broken", parts.command(arguments), tmp_path, stdin=subprocess.PIPE) as broken:
            assert broken.process.stdin is not None
            broken.process.stdin.write(slow)
            broken.process.stdin.close()
            plan = tmp_path / "broken" / ".plan" / "00000.parquet"
            # The producer has read the plan by then, and the shard is not collected yet.
            parts.eventually(lambda: parts.request_count(demo_url, "/images") > before, "the request of the image")
            plan.write_bytes(b"damaged")
            assert broken.wait().code == 1
        parts.eventually(
            lambda: "FAILURE" in [task["state"] for task in fleet.flower.tasks().values() if "collect" in task["name"]],
            "the failure of the shard",
        )
        os.killpg(fleet.command.process.pid, signal.SIGINT)
        assert fleet.command.wait().code == 0
        parts.eventually(lambda: not parts.still_running(family), "the end of all processes")


@pytest.mark.slow
def test_events_can_be_off(tmp_path: Path, demo_url: str) -> None:
    """With IMAGEFLEET_TASK_EVENTS=off Flower knows the workers, and hears of no image."""
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_TASK_EVENTS": "off"}
    with kept_fleet(tmp_path, "--workers", "1", env=env) as fleet:
        assert fleet.run("unheard", [f"{demo_url}/images/1.jpg"])["success"] == 1

        def heartbeats() -> int:
            workers = json.loads(fleet.flower.get("/workers?json=1", fleet.flower.password)[1])["data"]
            return sum(worker.get("worker-heartbeat", 0) for worker in workers)

        # They are events as well: the next one comes after all that the image would have made.
        before = heartbeats()
        parts.eventually(lambda: heartbeats() > before, "the next heartbeat")
        assert fleet.flower.tasks() == {}
        assert "task-" not in fleet.flower.get("/metrics")[1]


def test_run_with_flower(tmp_path: Path, demo_url: str) -> None:
    """`run --flower --json` prints its JSON and nothing else; where Flower is goes to standard error.

    Its usual port is taken: it has another one. It ends with the run, without waiting for anybody.
    """
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{number}.jpg?latency=0.5\n" for number in range(16)))
    argv = parts.command(["run", source, "--out", tmp_path / "out", "--workers", "1", "--concurrency", "4"])
    argv += ["--flower", "--json"]
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with taken(5555), parts.started("run", argv, tmp_path, env) as run:
        parts.eventually(lambda: address(run.err), "Flower's address")
        flower = address(run.err)
        assert flower is not None
        assert not flower.url.endswith(":5555")
        assert flower.get("/tasks", flower.password)[0] == 200
        family = run.descendants()
        assert len(flower_of(family)) == 1
        ended = run.wait()
        assert json.loads(ended.out)["success"] == 16
        assert ended.err.count("\n") == 1
        parts.eventually(lambda: not parts.still_running(family), "the end of all processes")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compare", "demo"])
def test_terminal_waits_for_a_key(tmp_path: Path, demo_url: str, way: str) -> None:
    """On a terminal the fleet and its Flower stay until a key is pressed, so that a person can look at them."""
    (tmp_path / "list.txt").write_text(f"{demo_url}/images/1.jpg\n")
    arguments = ["compare", tmp_path / "list.txt"] if way == "compare" else ["demo", "--images=1", "--latency=0"]
    argv = parts.command([*arguments, "--out", tmp_path / "out", "--workers=1", "--flower"])
    terminal, end = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # A terminal whose last program has ended gives an error.
        with suppress(OSError):
            while some := os.read(terminal, 4096):
                shown.extend(some)

    env = parts.environment({"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"})
    process = subprocess.Popen(argv, env=env, cwd=tmp_path, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        parts.eventually(lambda: _PRESS in shown.decode(errors="replace"), "the question", 60)
        flower = address(shown.decode().replace("\r\n", "\n"))
        assert flower is not None
        assert flower.get("/", flower.password)[0] == 200
        assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(flower_of(family)) == 1
        os.write(terminal, b" ")
        assert process.wait(30) == 0
        parts.eventually(lambda: not parts.still_running(family), "the end of all processes")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        os.close(terminal)
    assert "comparison.svg" in shown.decode()


def test_nobody_is_waited_for_without_a_terminal(tmp_path: Path) -> None:
    """A script that runs the demo with Flower goes on when the demo is done."""
    arguments = ("--images=1", "--latency=0", "--workers=1", "--flower", "--out", tmp_path / "out")
    ended = parts.producer("demo", *arguments)
    assert ended.code == 0, ended.err
    assert address(ended.err) is not None
    assert _PRESS not in ended.err + ended.out


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthcheck" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_health_check_tells_what_is_wrong() -> None:
    """It is silent about a service that answers 200, and says in one line what is wrong with any other."""

    def alive(url: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "config.alive", url]
        done = subprocess.run(argv, cwd=parts.ROOT, capture_output=True, text=True, timeout=20, check=False)
        assert done.stdout == ""
        return done.returncode, done.stderr

    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert alive(f"{url}/healthcheck") == (0, "")
            code, told = alive(f"{url}/broken")
        finally:
            server.shutdown()
            thread.join()
    assert (code, told) == (1, f"{url}/broken: HTTP Error 500: Internal Server Error\n")
    code, told = alive(f"http://127.0.0.1:{parts.free_port()}/")
    assert code == 1
    assert "Connection refused" in told
    for wrong in ("file:///etc/passwd", "nothing"):
        assert alive(wrong) == (1, f"{wrong} is not an http URL\n")
