"""Run a demo server in a thread for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from producer.demo import DemoOptions, DemoServer
from tests.waiting import PATIENCE


@contextmanager
def running(options: DemoOptions | None = None) -> Iterator[DemoServer]:
    """Run a server with an event loop in a thread.

    At the end, no task must be running, and the loop must not have logged an error.
    """
    loop = asyncio.new_event_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = DemoServer(options)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        left = asyncio.all_tasks(loop)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert not left
    assert not complaints
