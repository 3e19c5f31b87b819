"""``python -m tests.integration.hostile_network``: fetch hostile URLs inside a network namespace.

In the namespace, all forbidden addresses and one allowed address belong to this machine. A server answers and counts
the connections to port 80 of these addresses. A DNS server in this process defines the names.

With the argument ``simulated``, the program runs without a namespace. In this case, this process resolves the names
from the same table, and counts each address to which a socket connects.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

from tasks.deadline import Deadline
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.errors import FetchError
from tasks.model import FetchOptions
from tests.hostile_urls import URLS
from tests.integration.name_server import NameServer

#: The only allowed address. Outside of this namespace, it is a public address.
GOOD = "93.184.215.14"
ADDRESSES = (
    *(f"{GOOD}/32", "10.0.0.1/32", "172.16.0.1/32", "192.168.0.1/32", "100.64.0.1/32", "169.254.169.254/32"),
    *("198.18.0.1/32", "fd00:ec2::254/128", "fe80::1/64", "64:ff9b::7f00:1/128", "64:ff9b::a9fe:a9fe/128"),
    *("64:ff9b:1::7f00:1/128", "64:ff9b:1:7f00:0:100::/128", "2002:7f00:1::/128", "2001:0:7f00:1::80ff:fffe/128"),
    *("2606:4700::5efe:7f00:1/128", "::7f00:1/128"),
)
#: The addresses of each name at the first lookup, and at later lookups.
NAMES = {
    "good.example": [[GOOD]],
    "loopback.example": [["127.0.0.1"]],
    "loopback6.example": [["::1"]],
    "private.example": [["10.0.0.1"]],
    "metadata.example": [["169.254.169.254"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "sixtofour.example": [["2002:7f00:1::"]],
    "good-then-bad.example": [[GOOD, "127.0.0.1"]],
    "bad-then-good.example": [["127.0.0.1", GOOD]],
    "good-and-bad6.example": [[GOOD, "::1"]],
    "bad-among-many.example": [[GOOD] * 9 + ["10.0.0.1"]],
    "rebinding.example": [[GOOD], ["127.0.0.1"]],
}


def main() -> None:
    """Fetch every hostile URL and name. Print the failure reasons, the reached addresses and the number of lookups."""
    reached: Counter[str] = Counter()
    lookups = _simulate(reached) if "simulated" in sys.argv else _set_up(reached)
    downloader = Downloader(Sessions(Guard()))
    urls = {form: url.replace("PORT", "80") for form, url in URLS.items()}
    hostile = {form: _reason(downloader, url) for form, url in urls.items()}
    hostile |= {
        name: _reason(downloader, f"http://{name}/")
        for name in NAMES
        if name not in ("good.example", "rebinding.example")
    }
    before = dict(reached)
    good = _reason(downloader, "http://good.example/")
    # The name has only allowed addresses when it is checked. Addresses that the name gets later do not matter until the
    # next check.
    first = _reason(downloader, "http://rebinding.example/")
    lookups_of_name = lookups["rebinding.example", 4]
    # New sessions have no cached addresses. Another process has no cached addresses either. The same process has none
    # left half a minute later.
    second = _reason(Downloader(Sessions(Guard())), "http://rebinding.example/")
    facts = {
        "hostile": hostile,
        "reached_by_hostile": before,
        "good": good,
        "rebinding": [first, lookups_of_name, second],
        "reached": dict(reached),
    }
    print(json.dumps(facts))


def _set_up(reached: Counter[str]) -> Counter[tuple[str, int]]:
    """Give all addresses to this namespace, and start both servers; return the lookup counts by name and family."""
    for command in ("link set lo up", *(f"addr add {address} dev lo nodad" for address in ADDRESSES)):
        subprocess.run(["ip", *command.split()], check=True)
    listener = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=_serve, args=(listener, reached), daemon=True).start()
    return NameServer(NAMES, ("127.0.0.1", 53)).asked


def _simulate(reached: Counter[str]) -> Counter[tuple[str, int]]:
    """Let this process's sockets and lookups behave as in the namespace; return the counts by name and family."""
    lookups: Counter[tuple[str, int]] = Counter()
    resolve, connect = socket.getaddrinfo, socket.socket.connect
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, Counter()), daemon=True).start()

    def getaddrinfo(host: str, port: int, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
        if host not in NAMES:
            # This resolver knows no names. It knows addresses in every notation that the system understands.
            return resolve(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        addresses = NAMES[host][min(lookups[host, 4], len(NAMES[host]) - 1)]
        lookups[host, 4] += 1
        return [answer for address in addresses for answer in resolve(address, port, 0, type, proto, flags)]

    def counting_connect(self: socket.socket, address: Any) -> None:
        reached[address[0].removeprefix("::ffff:")] += 1
        if address[0] != GOOD:
            raise ConnectionRefusedError(f"{address} is forbidden")
        connect(self, listener.getsockname())

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    socket.socket.connect = counting_connect  # type: ignore[assignment,method-assign]
    return lookups


def _reason(downloader: Downloader, url: str) -> str:
    """Return the reason of a download's failure, or "success"."""
    options = FetchOptions(timeout=2.0, deadline=5.0, retries=0)
    try:
        downloader.download(url, options, Deadline(options.timeout, options.deadline), lambda _: None)
    except FetchError as error:
        return str(error.reason)
    return "success"


def _serve(listener: socket.socket, reached: Counter[str]) -> None:
    """Answer each connection with a few bytes, and count the connections by local address."""
    while True:
        client, _ = listener.accept()
        with client, suppress(OSError):
            reached[client.getsockname()[0].removeprefix("::ffff:")] += 1
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")


if __name__ == "__main__":
    main()
