"""Import the optional packages for images when a run first needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tasks.errors import InternalError


def import_extra(module: str, extra: str) -> Any:
    """Return a module of an optional package.

    Raises:
        InternalError: the package is not installed on this worker. Another worker may have it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = InternalError(
            f"this worker can't import {module}: {error}; install it with `pip install 'imagefleet[{extra}]'`"
        )
        missing.is_worker_fault = True
        raise missing from error
