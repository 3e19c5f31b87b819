"""Writers of one name at the same moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tasks.storage.store import Store


def assert_one_writer_wins(store: Store, writers: int) -> None:
    """Let this many writers create the same file. Check that exactly one wins, and that the file has all its bytes."""
    barrier = threading.Barrier(writers)

    def write(number: int) -> bool:
        barrier.wait()
        return store.create("00000/a.jpg", bytes([number]) * 50_000)

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))
    assert won.count(True) == 1
    assert store.read("00000/a.jpg") == bytes([won.index(True)]) * 50_000
