"""A task as Flower knows it: an Outcome's status is the task's state, and its text is made for reading.

Knows neither Flower nor Celery: what comes in is an event, or a task, as Flower hands them over.
"""

from __future__ import annotations

import re
from typing import Any

_COLLECT = "collect_shard"
_IS_OUTCOME = re.compile(r"\{'key': '\w*', 'status': '(?P<status>\w+)'")
# Celery writes an Outcome much as Python would, but for backslashes and line ends, which it leaves as they are. So it
# can't be read as Python; a quote inside a text, though, always has a backslash before it.
_FIELD = re.compile(r"'(?P<name>\w+)': (?:'(?P<text>.*?)'|(?P<plain>[^',]+?))(?=, '\w+': |\}$)", re.DOTALL)


def honest(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event as it should count: the task of an image that failed has failed.

    To Celery it has succeeded, as it has an Outcome to return, and a chord needs that.
    """
    if event["type"] == "task-received" and str(event.get("name")).endswith(_COLLECT):
        # The argument is every Outcome of the shard, as far as it goes: a search for an image would find the shard.
        return {**event, "args": f"Outcomes of shard {_shard(str(event.get('kwargs')))}"}
    if event["type"] == "task-succeeded":
        found = _IS_OUTCOME.match(str(event.get("result")))
        if found and found["status"] != "success":
            return {**event, "type": "task-failed"}
    return event


def line(result: str) -> str:
    """Return an Outcome in a line, for a table; what is no Outcome stays."""
    found = _fields(result)
    if not found:
        return result
    if found["status"] == "success":
        size = f"{found.get('width')}x{found.get('height')} {found.get('format')}"
        return f"success: {size}, {int(found.get('bytes', 0)):,} bytes"
    return f"{found['status']}: {found.get('reason')} ({found.get('error_message')})"


def page(result: str) -> str:
    """Return all of an Outcome, a field on each line; what is no Outcome stays."""
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
