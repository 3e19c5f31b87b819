"""Use many files of a store at the same time, if each use is a request to an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from tasks.storage.local_store import LocalStore
from tasks.storage.store import Store

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
#: The number of requests that are sent at the same time.
_PARALLEL_REQUESTS = 32


def parallel_map(function: Callable[[_Item], _Result], items: Iterable[_Item], store: Store) -> Iterator[_Result]:
    """Yield the result of a function for each item, in order.

    Each request to an object store takes tens of milliseconds, so the function is called in several threads. In a
    folder, threads would cost more time than they save.

    Args:
        function: sends a request to the store, or uses a file of the folder.
        items: read as far ahead as there are threads.
        store: the store that the function uses.
    """
    if isinstance(store, LocalStore):
        yield from map(function, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        while batch := list(islice(rest, _PARALLEL_REQUESTS)):
            yield from pool.map(function, batch)
