"""``python -m tests.integration.dead_addresses FOLDER``: make a run inside a network namespace, and print the results.

A second namespace, connected by a virtual cable, plays the internet. This second namespace has the addresses that
answer. It drops packets to all other addresses. A DNS server in this process defines the names. FOLDER is the run's
folder. With a second argument ``compare``, curl and requests fetch the same URLs. The documentation shows the times of
curl and requests beside ours.
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
# These addresses share longer prefixes with this side's own address than the good addresses do, so the resolver puts
# the dead addresses first (RFC 6724).
DEAD6 = ("2606:4700:1::d1", "2606:4700:1::d2", "2606:4700:1::d3")
#: The names with one to three dead addresses before the address that answers.
NAMES = {
    "one-dead4.example": [DEAD4[0], GOOD4],
    "one-dead6.example": [DEAD6[0], GOOD4],
    "two-dead.example": [DEAD6[0], DEAD4[0], GOOD4],
    "three-dead.example": [DEAD6[0], DEAD6[1], DEAD4[0], GOOD4],
    "three-dead6.example": [*DEAD6, GOOD6],
}
#: The names for which the name server reports an error for one address family, or ignores the query for this family.
PARTIAL = {
    "servfail6.example": ([GOOD4], 6, _SERVFAIL),
    "servfail4.example": ([GOOD6], 4, _SERVFAIL),
    "silent6.example": ([GOOD4], 6, None),
}
_HERE4, _HERE6 = "192.168.7.1", "2606:4700:1::1"
_THERE4, _THERE6 = "192.168.7.2", "fe80::2"


def main(folder: Path, compare: bool) -> None:
    """Fetch two images of every host name, and print the run's rows and seconds."""
    internet = _connect_cable()
    addresses = {**NAMES, **{name: found for name, (found, _, _) in PARTIAL.items()}}
    faults = {(name, version): fault for name, (_, version, fault) in PARTIAL.items()}
    NameServer({name: [found] for name, found in addresses.items()}, ("127.0.0.1", 53), faults)
    source, out = folder / "urls.txt", folder / "out"
    urls = [f"http://{name}/{number}.png" for name in addresses for number in range(2)]
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
    """Play the internet: answer at the good addresses, and drop packets to all other addresses."""
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
    # The process on the other side closes this pipe when the process ends.
    sys.stdin.read()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answer every request with an image."""

    _IMAGE = encoded(Image.new("RGB", (4, 3), "red"), "PNG")

    def do_GET(self) -> None:
        """Send the image."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self._IMAGE)))
        self.end_headers()
        self.wfile.write(self._IMAGE)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _connect_cable() -> subprocess.Popen[str]:
    """Create the second namespace with its server, connect it by a cable, and return the server's process."""
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
    """Return curl's time in seconds, or its exit status if it fails."""
    began = time.monotonic()
    done = subprocess.run(["curl", "-sf", "-o", os.devnull, "--max-time", "60", url], check=False)
    return f"exit status {done.returncode}" if done.returncode else time.monotonic() - began


def _requests(url: str) -> float | str:
    """Return the seconds that the library ``requests`` takes with our timeout, or the error that it raises."""
    # The run needs a new process. urllib3 checks for IPv6 when it is imported, and this process had no network at that
    # time.
    program = f"import requests, time; t = time.time(); requests.get({url!r}, timeout=10); print(time.time() - t)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[-1] if done.returncode else float(done.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        main(Path(sys.argv[1]), "compare" in sys.argv)
