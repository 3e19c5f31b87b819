"""The demo server as a process: it prints its URL, and ends on a signal."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from producer.demo import draw_image
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]


def demo_process(*arguments: str) -> subprocess.Popen[str]:
    """Start `python -m producer.demo` in its own process."""
    command = [sys.executable, "-m", "producer.demo", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_process_prints_its_url_and_ends_silently() -> None:
    """The process prints its URL and serves the same images. It ends on a signal even if a client waits."""
    with demo_process("--width", "50", "--height", "40") as first, demo_process("--width=50") as second:
        for process, number, height in ((first, signal.SIGINT, 40), (second, signal.SIGTERM, 200)):
            assert process.stdout is not None
            host, _, port = process.stdout.readline().strip().removeprefix("http://").partition(":")
            with socket.create_connection((host, int(port)), PATIENCE) as client:
                client.sendall(b"GET /images/6.png HTTP/1.0\r\n\r\n")
                assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(draw_image(6, 50, height, "png"))
            with socket.create_connection((host, int(port)), PATIENCE) as client:
                client.sendall(b"GET /fault/stall HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.recv(1) == b"H"
                process.send_signal(number)
                assert process.wait(PATIENCE) == 0
            assert process.communicate() == ("", "")


def test_process_draws_its_ready_images_first() -> None:
    """Before the process prints its URL, it draws the images that it keeps ready.

    A signal ends the process even while it draws.
    """
    with demo_process("--ready", "2") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    with demo_process("--ready", "10000") as process:
        wait_for(lambda: psutil.Process(process.pid).num_threads() > 1)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.communicate() == ("", "")


def test_process_explains_why_it_cannot_start() -> None:
    """If the port is taken, the process prints one line and ends with status 1."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        demo_process("--port", str(taken.getsockname()[1])) as process,
    ):
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert "Address already in use" in errors
