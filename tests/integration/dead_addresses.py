"""``python -m tests.integration.dead_addresses FOLDER``: run inside a network namespace, and tell what a run fetches.

A second namespace, at the other end of a cable, is the internet: it has the addresses that answer, and drops what is
for others. Names mean what a DNS server of this process says. The folder is the run's; with ``compare`` behind it curl
and requests fetch the same URLs, so that their seconds stand beside ours in the documentation.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from tests.encoding import encoded
from tests.integration.name_server import NameServer

_SERVFAIL = 2
GOOD4, GOOD6 = "93.184.215.14", "2606:4700:2::1"
DEAD4 = ("93.184.216.1", "93.184.216.2", "93.184.216.3")
# Longer prefixes in common with this side's own address, so that the resolver's order begins with these (RFC 6724).
DEAD6 = ("2606:4700:1::d1", "2606:4700:1::d2", "2606:4700:1::d3")
#: The names with dead addresses: one to three of them before the one that answers.
NAMES = {
    "one-dead4.example": [DEAD4[0], GOOD4],
    "one-dead6.example": [DEAD6[0], GOOD4],
    "two-dead.example": [DEAD6[0], DEAD4[0], GOOD4],
    "three-dead.example": [DEAD6[0], DEAD6[1], DEAD4[0], GOOD4],
    "three-dead6.example": [*DEAD6, GOOD6],
}
#: The names whose server fails for one family of their addresses, or ignores the question.
PARTIAL = {
    "servfail6.example": ([GOOD4], 6, _SERVFAIL),
    "servfail4.example": ([GOOD6], 4, _SERVFAIL),
    "silent6.example": ([GOOD4], 6, None),
}
_HERE4, _HERE6 = "192.168.7.1", "2606:4700:1::1"
_THERE4, _THERE6 = "192.168.7.2", "fe80::2"


def main(folder: Path, compare: bool) -> None:
    """Fetch one picture of every name, and print the run's rows and seconds."""
    internet = _connect_cable()
    meanings = {**NAMES, **{name: found for name, (found, _, _) in PARTIAL.items()}}
    faults = {(name, version): fault for name, (_, version, fault) in PARTIAL.items()}
    NameServer({name: [found] for name, found in meanings.items()}, ("127.0.0.1", 53), faults)
    source, out = folder / "urls.txt", folder / "out"
    urls = [f"http://{name}/{number}.png" for name in meanings for number in range(2)]
    source.write_text("".join(f"{url}\n" for url in urls))
    argv = [sys.executable, "-m", "producer", "run", str(source), "--out", str(out), "--workers", "1", "--json"]
    done = subprocess.run(
        [*argv, "--retries", "0", "--timeout", "30"], capture_output=True, text=True, timeout=200, check=False
    )
    rows = pq.read_table(out / "00000.parquet").to_pylist() if (out / "00000.parquet").exists() else []
    facts = {
        "code": done.returncode,
        "err": done.stderr,
        "rows": [[row["url"], row["error_message"], row["fetch_seconds"]] for row in rows],
        "others": {url: [_curl(url), _requests(url)] for url in urls[::2]} if compare else {},
    }
    print(json.dumps(facts))
    internet.communicate()


def serve() -> None:
    """Be the internet: answer at the addresses that are good, and drop everything else."""
    _ip("link", "set", "lo", "up")
    for address in (f"{GOOD4}/32", f"{GOOD6}/128"):
        _ip("addr", "add", address, "dev", "lo")
    _ip("link", "add", "there", "type", "veth", "peer", "name", "here", "netns", str(os.getppid()))
    _ip("link", "set", "there", "up")
    _ip("addr", "add", f"{_THERE4}/30", "dev", "there")
    _ip("addr", "add", f"{_THERE6}/64", "dev", "there", "nodad")
    _ip("-6", "route", "add", f"{_HERE6}/128", "dev", "there")
    for family in ("-4", "-6"):
        _ip(family, "route", "add", "blackhole", "default")
    server = http.server.ThreadingHTTPServer(("", 80), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    # The other side closes this when it ends.
    sys.stdin.read()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answer every request with a picture."""

    _PICTURE = encoded(Image.new("RGB", (4, 3), "red"), "PNG")

    def do_GET(self) -> None:
        """Send the picture."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self._PICTURE)))
        self.end_headers()
        self.wfile.write(self._PICTURE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _connect_cable() -> subprocess.Popen[str]:
    """Make the second namespace, with its server and a cable that leads there, and return its process."""
    _ip("link", "set", "lo", "up")
    unshare = shutil.which("unshare") or "/usr/bin/unshare"
    argv = [unshare, "--net", sys.executable, "-m", "tests.integration.dead_addresses", "serve"]
    there = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert there.stdout is not None
    assert there.stdout.readline() == "ready\n"
    _ip("link", "set", "here", "up")
    _ip("addr", "add", f"{_HERE4}/30", "dev", "here")
    _ip("addr", "add", f"{_HERE6}/128", "dev", "here", "nodad")
    _ip("route", "add", "default", "via", _THERE4)
    _ip("-6", "route", "add", "default", "via", _THERE6, "dev", "here")
    return there


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _curl(url: str) -> float | str:
    """Return the seconds that curl takes, or that it fails."""
    began = time.monotonic()
    done = subprocess.run(["curl", "-sf", "-o", os.devnull, "--max-time", "60", url], check=False)
    return f"exit status {done.returncode}" if done.returncode else time.monotonic() - began


def _requests(url: str) -> float | str:
    """Return the seconds that requests takes with our timeout, or how it fails."""
    # A new process: urllib3 looks for IPv6 when it is imported, and this one had no network then.
    program = f"import requests, time; t = time.time(); requests.get({url!r}, timeout=10); print(time.time() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[-1] if done.returncode else float(done.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        main(Path(sys.argv[1]), "compare" in sys.argv)
