"""The Flower of a local fleet: the address, the password, the events, and the end of Flower with the fleet."""

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

from producer.local_fleet.supervisor_client import ROOT
from tests.flower import address, running_fleet
from tests.integration import processes as process_helpers

_PRESS = "Press any key"


@contextmanager
def port_in_use(port: int) -> Iterator[None]:
    """Make sure that a port is in use, either by a socket of this test or by another program."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def flower_processes(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the Flower processes among these processes."""
    return [process for process in processes if "flower" in process.cmdline()]


@pytest.mark.slow
def test_flower_below_a_prefix(tmp_path: Path) -> None:
    """With FLOWER_URL_PREFIX, all pages are below the prefix and need the password. Flower's health check passes."""
    with running_fleet(tmp_path, "--workers", "1", env={"FLOWER_URL_PREFIX": "/watch/"}) as fleet:
        for path in ("/", "/tasks", "/api/workers", "/static/css/flower.css"):
            assert fleet.flower.get(f"/watch{path}", None)[0] == 401
            assert fleet.flower.get(f"/watch{path}", fleet.flower.password)[0] == 200
            assert fleet.flower.get(path, fleet.flower.password)[0] == 404
        # The command is as in docker-compose.yml, with the prefix exactly as given.
        for prefix, status in (("/watch/", 0), ("", 1)):
            argv = [sys.executable, "-m", "config.healthcheck", f"{fleet.flower.url}/{prefix}/healthcheck"]
            assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode == status


def test_fleet_command_starts_flower(tmp_path: Path, demo_url: str) -> None:
    """`producer fleet` prints the address of Flower, which requires its password and listens on loopback only.

    Flower gets an event for every image, and an event for a shard that can't be collected. Flower's processes end with
    the fleet.
    """
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with running_fleet(tmp_path, "--workers", "1", env=env) as fleet:
        processes = fleet.command.descendants()
        (flower,) = flower_processes(processes)
        port = int(fleet.flower.url.rpartition(":")[2])
        assert [connection.laddr for connection in flower.net_connections("tcp") if connection.status == "LISTEN"] == [
            ("127.0.0.1", port)
        ]
        for password, status in ((None, 401), ("wrong", 401), (fleet.flower.password, 200)):
            for path in ("/", "/tasks", "/api/workers", "/static/css/flower.css"):
                assert fleet.flower.get(path, password)[0] == status
        assert fleet.flower.password not in str([process.cmdline() for process in processes])
        fleet.run("heard", [f"{demo_url}/images/1.jpg", f"{demo_url}/fault/not-found"])
        process_helpers.eventually(
            lambda: (
                sorted(task["state"] for task in fleet.flower.tasks().values()) == ["FAILURE", "SUCCESS", "SUCCESS"]
            ),
            "the states of two images and a shard",
        )
        arguments = ("run", "-", "--out", tmp_path / "broken", "--broker", fleet.broker)
        slow = f"{demo_url}/images/1.jpg?latency=2".encode()
        before = process_helpers.request_count(demo_url, "/images")
        with process_helpers.started(
            "broken", process_helpers.command(arguments), tmp_path, stdin=subprocess.PIPE
        ) as broken:
            assert broken.process.stdin is not None
            broken.process.stdin.write(slow)
            broken.process.stdin.close()
            plan = tmp_path / "broken" / ".plan" / "00000.parquet"
            # At this moment, the producer has read the plan, and the shard is not collected yet.
            process_helpers.eventually(
                lambda: process_helpers.request_count(demo_url, "/images") > before, "the request of the image"
            )
            plan.write_bytes(b"damaged")
            assert broken.wait().code == 1
        process_helpers.eventually(
            lambda: "FAILURE" in [task["state"] for task in fleet.flower.tasks().values() if "collect" in task["name"]],
            "the failure of the shard",
        )
        os.killpg(fleet.command.process.pid, signal.SIGINT)
        assert fleet.command.wait().code == 0
        process_helpers.eventually(lambda: not process_helpers.still_running(processes), "the end of all processes")


@pytest.mark.slow
def test_events_can_be_off(tmp_path: Path, demo_url: str) -> None:
    """With IMAGEFLEET_TASK_EVENTS=off, Flower knows the workers but gets no event of an image."""
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_TASK_EVENTS": "off"}
    with running_fleet(tmp_path, "--workers", "1", env=env) as fleet:
        assert fleet.run("unheard", [f"{demo_url}/images/1.jpg"])["success"] == 1

        def heartbeats() -> int:
            workers = json.loads(fleet.flower.get("/workers?json=1", fleet.flower.password)[1])["data"]
            return sum(worker.get("worker-heartbeat", 0) for worker in workers)

        # A worker's heartbeats are events too. The next heartbeat comes after every event of the image.
        before = heartbeats()
        process_helpers.eventually(lambda: heartbeats() > before, "the next heartbeat")
        assert fleet.flower.tasks() == {}
        assert "task-" not in fleet.flower.get("/metrics")[1]


def test_run_with_flower(tmp_path: Path, demo_url: str) -> None:
    """`run --flower --json` prints Flower's address to standard error. Only the JSON goes to standard output.

    Flower's usual port is taken, so Flower uses another port. The command ends with the run, without waiting for a key.
    """
    source = tmp_path / "list.txt"
    source.write_text("".join(f"{demo_url}/images/{number}.jpg?latency=0.5\n" for number in range(16)))
    argv = process_helpers.command(["run", source, "--out", tmp_path / "out", "--workers", "1", "--concurrency", "4"])
    argv += ["--flower", "--json"]
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with port_in_use(5555), process_helpers.started("run", argv, tmp_path, env) as run:
        process_helpers.eventually(lambda: address(run.err), "Flower's address")
        flower = address(run.err)
        assert flower is not None
        assert not flower.url.endswith(":5555")
        assert flower.get("/tasks", flower.password)[0] == 200
        processes = run.descendants()
        assert len(flower_processes(processes)) == 1
        ended = run.wait()
        assert json.loads(ended.out)["success"] == 16
        assert ended.err.count("\n") == 1
        process_helpers.eventually(lambda: not process_helpers.still_running(processes), "the end of all processes")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compare", "demo"])
def test_flower_on_a_terminal_stays_until_a_key(tmp_path: Path, demo_url: str, way: str) -> None:
    """On a terminal, the fleet and its Flower stay until a key is pressed, so that a person can look at Flower."""
    (tmp_path / "list.txt").write_text(f"{demo_url}/images/1.jpg\n")
    arguments = ["compare", tmp_path / "list.txt"] if way == "compare" else ["demo", "--images=1", "--latency=0"]
    argv = process_helpers.command([*arguments, "--out", tmp_path / "out", "--workers=1", "--flower"])
    terminal, end = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # Reading fails when the terminal's last program has ended.
        with suppress(OSError):
            while chunk := os.read(terminal, 4096):
                shown.extend(chunk)

    env = process_helpers.environment({"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"})
    process = subprocess.Popen(argv, env=env, cwd=tmp_path, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        process_helpers.eventually(lambda: _PRESS in shown.decode(errors="replace"), "the prompt", 60)
        flower = address(shown.decode().replace("\r\n", "\n"))
        assert flower is not None
        assert flower.get("/", flower.password)[0] == 200
        assert process.poll() is None
        processes = psutil.Process(process.pid).children(recursive=True)
        assert len(flower_processes(processes)) == 1
        os.write(terminal, b" ")
        assert process.wait(30) == 0
        process_helpers.eventually(lambda: not process_helpers.still_running(processes), "the end of all processes")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        os.close(terminal)
    assert "comparison.svg" in shown.decode()


def test_waits_for_no_key_without_a_terminal(tmp_path: Path) -> None:
    """Without a terminal, the demo with Flower ends when its downloads are done."""
    arguments = ("--images=1", "--latency=0", "--workers=1", "--flower", "--out", tmp_path / "out")
    ended = process_helpers.producer("demo", *arguments)
    assert ended.code == 0, ended.err
    assert address(ended.err) is not None
    assert _PRESS not in ended.err + ended.out


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthcheck" else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_health_check_reports_the_error() -> None:
    """The health check prints nothing if the service answers 200. Otherwise, it prints one line with the error."""

    def check(url: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "config.healthcheck", url]
        done = subprocess.run(argv, cwd=process_helpers.ROOT, capture_output=True, text=True, timeout=20, check=False)
        assert done.stdout == ""
        return done.returncode, done.stderr

    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert check(f"{url}/healthcheck") == (0, "")
            code, error = check(f"{url}/broken")
        finally:
            server.shutdown()
            thread.join()
    assert (code, error) == (1, f"{url}/broken: HTTP Error 500: Internal Server Error\n")
    code, error = check(f"http://127.0.0.1:{process_helpers.free_port()}/")
    assert code == 1
    assert "Connection refused" in error
    for wrong in ("file:///etc/passwd", "nothing"):
        assert check(wrong) == (1, f"{wrong} is not an http URL\n")
