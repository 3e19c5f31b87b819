"""Adapt image tasks for Flower: take the task's state from the Outcome, and format the Outcome as readable text.

This module does not import Flower or Celery, because its functions take Flower's events and results as plain values.
"""

from __future__ import annotations

import re
from typing import Any

_COLLECT = "collect_shard"
_IS_OUTCOME = re.compile(r"\{'key': '\w*', 'status': '(?P<status>\w+)'")
# Celery formats an Outcome almost like Python's repr, but does not escape backslashes and line ends. So the formatted
# Outcome can't be parsed as Python. The expression relies on a backslash before each quote inside a string.
_FIELD = re.compile(r"'(?P<name>\w+)': (?:'(?P<text>.*?)'|(?P<plain>[^',]+?))(?=, '\w+': |\}$)", re.DOTALL)


def adjust_event(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event. If the image failed, the event's type is ``task-failed``, so that Flower counts the failure.

    For Celery, even the task of a failed image succeeds, because the chord needs the Outcome that the task returns.
    """
    if event["type"] == "task-received" and str(event.get("name")).endswith(_COLLECT):
        # The arguments of a collect task contain the shard's Outcomes in truncated form. If Flower kept these
        # arguments, a search for an image would also find the collect task.
        return {**event, "args": f"Outcomes of shard {_shard(str(event.get('kwargs')))}"}
    if event["type"] == "task-succeeded":
        found = _IS_OUTCOME.match(str(event.get("result")))
        if found and found["status"] != "success":
            return {**event, "type": "task-failed"}
    return event


def format_line(result: str) -> str:
    """Format an Outcome as one line for a table; return any other result unchanged."""
    found = _fields(result)
    if not found:
        return result
    if found["status"] == "success":
        size = f"{found.get('width')}x{found.get('height')} {found.get('format')}"
        return f"success: {size}, {int(found.get('bytes', 0)):,} bytes"
    return f"{found['status']}: {found.get('reason')} ({found.get('error_message')})"


def format_page(result: str) -> str:
    """Format an Outcome with one line per field; return any other result unchanged."""
    return "\n".join(f"{name}: {value}" for name, value in _fields(result).items()) or result


def _shard(kwargs: str) -> str:
    found = re.search(r"'shard': (\d+)", kwargs)
    return found[1] if found else kwargs


def _fields(result: str) -> dict[str, str]:
    if not _IS_OUTCOME.match(result):
        return {}
    return {
        found["name"]: found["plain"] if found["text"] is None else found["text"].replace("\\'", "'")
        for found in _FIELD.finditer(result)
    }
