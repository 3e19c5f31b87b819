"""Flower's configuration: ``celery -A tasks flower --conf=config/flower.py``.

Tornado runs this file and takes the names that are options of Flower. Flower shows every image's task; what an image
came to is the task's result. To Celery a failed download is a task that succeeded, as it has an Outcome to return;
here it counts as failed (see ``config/flower_tasks.py``), and reads ``failed_to_download: http_4xx (HTTP 404 Not
Found)`` in the column *Result*. It is found by *Failed*, and by searching for ``result:failed``.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from flower import events, urls
from flower.views import BaseHandler
from flower.views.auth import LoginHandler
from flower.views.error import NotFoundErrorHandler
from flower.views.monitor import Healthcheck, Metrics
from flower.views.tasks import TaskView
from tornado.routing import URLSpec
from tornado.web import StaticFileHandler

from config import flower_tasks
from config.settings import settings

basic_auth = [f"imagefleet:{settings().flower_password}"]
# Its API can publish and revoke tasks, otherwise.
read_only = True
# What its pages show of a task: the URL is the argument, the Outcome the result, and the id leads to the task's page.
tasks_columns = "args,state,result,runtime,uuid,worker,received"
max_tasks = 20_000
max_workers = 1_000
purge_offline_workers = 300
persistent = False
natural_time = False
# The workers' own setting decides whether events are sent; Flower would switch them on again every five seconds.
enable_events = settings().task_events


def format_task(task: Any) -> Any:
    """Return a task as Flower's table shows it: a line for its Outcome in place of the whole."""
    if task.result:
        task.result = flower_tasks.line(task.result)
    return task


class _State(events.EventsState):  # type: ignore[misc]
    """What Flower remembers and counts."""

    def event(self, event: dict[str, Any]) -> None:
        super().event(flower_tasks.honest(event))


class _TaskPage(TaskView):  # type: ignore[misc]
    """A task's own page, which has room for the whole Outcome."""

    def format_task(self, task: Any) -> Any:
        """Return a task with its Outcome's fields, one on each line."""
        task = copy(task)
        if task.result:
            task.result = flower_tasks.page(task.result)
        return task


events.EventsState = _State


def _asking(handler: Any) -> Any:
    """Return a handler that asks for the password before anything else."""
    # There is no page to log in on: the browser asks.
    base = {LoginHandler: NotFoundErrorHandler, TaskView: _TaskPage}.get(handler, handler)

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
