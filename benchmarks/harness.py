"""What the benchmarks share: a web server with pictures, a measured process tree, and results kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from producer.demo.pictures import picture

RESULTS = Path(__file__).with_name("results")
_SAMPLE = 0.1


@dataclass
class Measured:
    """What a command and all its descendants took: CPU seconds and the peak of memory in bytes, by role."""

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    output: str = ""

    @property
    def cpu_seconds(self) -> float:
        """The CPU seconds of all roles together."""
        return sum(self.cpu.values())


def measure(argv: Sequence[str], env: dict[str, str]) -> Measured:
    """Run a command to its end and return what its process tree took, seen ten times a second.

    Memory is the sum of the processes' unique set sizes: what would be free if they ended.

    Raises:
        RuntimeError: the command failed.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        argv, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    used: dict[int, tuple[str, float]] = {}
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE):
            memory = 0
            for member in _tree(process.pid):
                try:
                    times = member.cpu_times()
                    used[member.pid] = (_role(member, process.pid), times.user + times.system)
                    memory += member.memory_full_info().uss
                except psutil.Error:
                    continue
            peak = max(peak, memory)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, errors = process.communicate()
    done.set()
    watcher.join()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed with {process.returncode}:\n{errors[-2000:]}")
    measured = Measured(time.monotonic() - started, {}, peak, output)
    for role, seconds in used.values():
        measured.cpu[role] = measured.cpu.get(role, 0.0) + seconds
    return measured


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _role(process: psutil.Process, root: int) -> str:
    if process.pid == root:
        return "producer"
    words = " ".join(process.cmdline()[:6])
    if "flower" in words:
        return "flower"
    if "celery" in words:
        return "workers"
    if "redis" in words or "valkey" in words:
        return "redis"
    return "other"


def write_pictures(folder: Path, count: int) -> int:
    """Write different JPEG pictures of about 15 KB each; return the bytes of all.

    Drawing 20,000 would take minutes, so 200 are drawn, and each file gets a comment segment with its number.
    """
    folder.mkdir(parents=True)
    drawn = [picture(index) for index in range(min(count, 200))]
    size = 0
    for index in range(count):
        body = drawn[index % len(drawn)]
        comment = f"{index:08d}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        # After SOI and the JFIF header, where every decoder expects segments.
        size += (folder / f"{index}.jpg").write_bytes(body[:2] + segment + body[2:])
    return size


@contextmanager
def nginx(folder: Path, scratch: Path) -> Iterator[str]:
    """Serve a folder by nginx on a free port of loopback; give its URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise RuntimeError("nginx is not installed; Debian's package is nginx-light")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    scratch.mkdir(parents=True, exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (scratch / "nginx.conf").write_text(f"""
daemon off; {user} worker_processes 1; pid {scratch}/nginx.pid; error_log {scratch}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; types {{ image/jpeg jpg; }}
    client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy; fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
""")
    server = subprocess.Popen(
        [program, "-c", f"{scratch}/nginx.conf", "-p", str(scratch), "-e", f"{scratch}/error.log"]
    )
    try:
        _wait_for_port(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 10
    while time.monotonic() < ends and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not start")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: the machine and the versions."""
    packages = ("celery", "kombu", "redis", "requests", "pillow")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most of repeated measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def keep(name: str, result: dict[str, Any]) -> Path:
    """Write a benchmark's result, with the machine it was made on; `make docs` puts it into the README."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n")
    return path
