"""A small DNS server (RFC 1035) over UDP that answers A and AAAA queries from a test's table."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

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
    ) -> None:
        """Take the table. A name's last entry is repeated, and a name outside of the table does not exist.

        Args:
            names: the addresses of each name, by query.
            address: the host and port at which the server listens.
            faults: for a name and an address family (4 or 6), the response code that is sent instead of an answer; None
                to ignore the query.
        """
        self._names, self._faults = names, faults or {}
        #: The number of queries for each name, by address family.
        self.asked: Counter[tuple[str, int]] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(address)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, sender = self._socket.recvfrom(512)
            answer = self._answer(question)
            if answer is not None:
                self._socket.sendto(answer, sender)

    def _answer(self, question: bytes) -> bytes | None:
        labels, at = [], 12
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode("ascii"))
            at += 1 + size
        name, version = ".".join(labels).lower(), _TYPES.get(int.from_bytes(question[at + 1 : at + 3], "big"), 0)
        fault = self._faults.get((name, version), 0)
        if fault is None:
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
