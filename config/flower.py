"""Flower's configuration: ``celery -A tasks flower --conf=config/flower.py``.

Tornado runs this file and takes Flower's options from the variables defined here. Flower shows one task per image, with
the Outcome as its result. For Celery, even a failed download is a successful task, because the task returns an Outcome.
In Flower, however, the task of a failed image counts as failed (see ``config/flower_tasks.py``). The column *Result*
then shows, for example, ``failed_to_download: http_4xx (HTTP 404 Not Found)``. To find failed images, click *Failed* or
search for ``result:failed``.
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
# Without this setting, clients of Flower's API could publish and revoke tasks.
read_only = True
# The columns of the task table. For an image, `args` is the URL, `result` is the Outcome, and `uuid` links to the
# task's page.
tasks_columns = "args,state,result,runtime,uuid,worker,received"
max_tasks = 20_000
max_workers = 1_000
purge_offline_workers = 300
persistent = False
natural_time = False
# The workers' own setting decides whether they send events. By default, Flower tells the workers every five
# seconds to send events.
enable_events = settings().task_events


def format_task(task: Any) -> Any:
    """Shorten a task's Outcome to one line for Flower's table."""
    if task.result:
        task.result = flower_tasks.format_line(task.result)
    return task


class _State(events.EventsState):  # type: ignore[misc]
    """Flower's task history and counters, which count the task of a failed image as failed."""

    def event(self, event: dict[str, Any]) -> None:
        super().event(flower_tasks.adjust_event(event))


class _TaskPage(TaskView):  # type: ignore[misc]
    """The page of one task, with the whole Outcome."""

    def format_task(self, task: Any) -> Any:
        """Return a copy of the task with one line per field of its Outcome."""
        task = copy(task)
        if task.result:
            task.result = flower_tasks.format_page(task.result)
        return task


events.EventsState = _State


def _require_password(handler: Any) -> Any:
    """Return a handler that asks for the password before it does anything else."""
    # Flower's login page is replaced by status 404, because the browser itself asks for the password.
    base = {LoginHandler: NotFoundErrorHandler, TaskView: _TaskPage}.get(handler, handler)

    class Protected(base):  # type: ignore[misc,valid-type]
        def prepare(self) -> Any:
            # `get_current_user` responds with 401 if the client did not send the password.
            BaseHandler.get_current_user(self)
            return super().prepare()

    return Protected


# By default, Flower serves its scripts, its page for unknown paths and a few other pages without a password. With
# `_require_password`, only /metrics and /healthcheck need no password.
_PUBLIC_HANDLERS = (Metrics, Healthcheck)
urls.settings["static_handler_class"] = _require_password(StaticFileHandler)
for _index, _rule in enumerate(urls.handlers):
    if isinstance(_rule, URLSpec):
        _rule.target = _rule.handler_class = _require_password(_rule.handler_class)
    elif _rule[1] not in _PUBLIC_HANDLERS:
        urls.handlers[_index] = (_rule[0], _require_password(_rule[1]), *_rule[2:])
