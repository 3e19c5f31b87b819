"""Flower's configuration: ``celery -A tasks flower --conf=config/flower.py``.

Tornado runs this file and takes the names that are options of Flower. Flower shows every image's task; what an image
came to is the task's result, as the task itself succeeds when it has an Outcome to return, also a failed one. So a
failed download reads ``failed_to_download: http_4xx (HTTP 404 Not Found)`` in the column *Result*, and is found by
searching for ``result:failed``.
"""

from __future__ import annotations

import ast
from typing import Any

from flower import urls
from flower.views import BaseHandler
from flower.views.auth import LoginHandler
from flower.views.error import NotFoundErrorHandler
from flower.views.monitor import Healthcheck, Metrics
from tornado.routing import URLSpec
from tornado.web import StaticFileHandler

from config.settings import settings

basic_auth = [f"imagefleet:{settings().flower_password}"]
# Its API can publish and revoke tasks, otherwise.
read_only = True
# What its pages show of a task: the URL is the argument, the Outcome the result.
tasks_columns = "args,state,result,runtime,worker,received,name,uuid"
max_tasks = 20_000
max_workers = 1_000
purge_offline_workers = 300
persistent = False
natural_time = False
# The workers' own setting decides whether events are sent; Flower would switch them on again every five seconds.
enable_events = settings().task_events

_SHOWN = 120


def format_task(task: Any) -> Any:
    """Return a task as Flower shows it: a line for its Outcome in place of the whole."""
    if task.name and task.name.endswith("collect_shard"):
        # Its first argument is every Outcome of the shard.
        task.args = task.kwargs
    elif task.result:
        task.result = _line(task.result)
    return task


def _line(result: str) -> str:
    """Return an Outcome, as the event carries it, in one line; what is no Outcome stays, cut."""
    try:
        outcome = ast.literal_eval(result)
        status = outcome["status"]
    except (ValueError, SyntaxError, TypeError, KeyError):
        return result[:_SHOWN]
    if status == "success":
        return f"{status}: {outcome['width']}x{outcome['height']} {outcome['format']}, {outcome['bytes']:,} bytes"
    return f"{status}: {outcome['reason']} ({outcome['error_message']})"[:_SHOWN]


def _asking(handler: Any) -> Any:
    """Return a handler that asks for the password before anything else."""
    # There is no page to log in on: the browser asks.
    base = NotFoundErrorHandler if handler is LoginHandler else handler

    class Asking(base):  # type: ignore[misc,valid-type]
        def prepare(self) -> Any:
            # It raises 401 for whoever is not logged in.
            BaseHandler.get_current_user(self)
            return super().prepare()

    return Asking


# Flower gives its scripts, its page for unknown paths and a few others to anybody. Here all ask, but for the two that
# monitoring needs.
_OPEN = (Metrics, Healthcheck)
urls.settings["static_handler_class"] = _asking(StaticFileHandler)
for _place, _rule in enumerate(urls.handlers):
    if isinstance(_rule, URLSpec):
        _rule.target = _rule.handler_class = _asking(_rule.handler_class)
    elif _rule[1] not in _OPEN:
        urls.handlers[_place] = (_rule[0], _asking(_rule[1]), *_rule[2:])
