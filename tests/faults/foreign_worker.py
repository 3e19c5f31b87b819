"""A worker that consumes our queues but does not know our tasks, so it drops all messages."""

from __future__ import annotations

from celery import Celery

from tasks import celery

app = Celery("stranger")
app.conf.update(
    broker_url=celery.app.conf.broker_url,
    result_backend=celery.app.conf.result_backend,
    task_queues=celery.app.conf.task_queues,
    task_create_missing_queues=False,
    worker_pool="threads",
    broker_connection_retry_on_startup=True,
)
