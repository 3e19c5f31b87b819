"""A small DNS server (RFC 1035) over UDP that answers A and AAAA queries from a test's table, at once or slowly."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

_TYPES = {1: 4, 28: 6}
_NO_NAME = 3


class NameServer:
    """Answers from a table.

    For each name, the table lists the addresses for the first query, for the second query, and so on.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[Sequence[str]]],
        address: tuple[str, int],
        faults: Mapping[tuple[str, int], int | None] | None = None,
        latency: float = 0.0,
    ) -> None:
        """Take the table. A name's last entry is repeated, and a name outside of the table does not exist.

        Args:
            names: the addresses of each name, by query.
            address: the host and port at which the server listens.
            faults: for a name and an address family (4 or 6), the response code that is sent instead of an answer; None
                to ignore the query.
            latency: the seconds between a query and its answer. Any number of queries can wait at a time.
        """
        self._names, self._faults = names, faults or {}
        #: The number of answers with addresses for each name, by address family.
        self.asked: Counter[tuple[str, int]] = Counter()
        #: The number of all queries for each name, by address family.
        self.queried: Counter[tuple[str, int]] = Counter()
        #: Every query whose number is a multiple of this number is ignored; 0 to ignore none. A test may change it.
        self.ignore_every = 0
        self._latency = latency
        self._delayed: deque[tuple[float, bytes, Any]] = deque()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        threading.Thread(target=self._serve, daemon=True).start()
        if latency:
            threading.Thread(target=self._send_delayed, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            answer = self._answer(question)
            if answer is None:
                continue
            if self._latency:
                self._delayed.append((time.monotonic() + self._latency, answer, sender))
            else:
                self._socket.sendto(answer, sender)

    def _send_delayed(self) -> None:
        while True:
            if not self._delayed:
                time.sleep(0.001)
                continue
            due, answer, sender = self._delayed.popleft()
            time.sleep(max(due - time.monotonic(), 0))
            self._socket.sendto(answer, sender)

    def _answer(self, question: bytes) -> bytes | None:
        labels, at = [], 12
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode("ascii"))
            at += 1 + size
        name, version = ".".join(labels).lower(), _TYPES.get(int.from_bytes(question[at + 1 : at + 3], "big"), 0)
        self.queried[name, version] += 1
        fault = self._faults.get((name, version), 0)
        if fault is None or (self.ignore_every and self.queried.total() % self.ignore_every == 0):
            return None
        meanings = None if fault else self._names.get(name)
        records = []
        if meanings is not None:
            turn = min(self.asked[name, version], len(meanings) - 1)
            self.asked[name, version] += 1
            found = [ipaddress.ip_address(address) for address in meanings[turn]]
            # Each record points to the name in the question, with a time to live of 0.
            records = [
                struct.pack(">HHHIH", 0xC00C, 1 if version == 4 else 28, 1, 0, len(address.packed)) + address.packed
                for address in found
                if address.version == version
            ]
        code = 0x8180 | (fault or (0 if meanings is not None else _NO_NAME))
        head = question[:2] + struct.pack(">HHHHH", code, 1, len(records), 0, 0)
        return head + question[12 : at + 5] + b"".join(records)
