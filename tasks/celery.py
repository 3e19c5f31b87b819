"""The Celery app and its settings, with the reason for each setting.

Start a worker with ``celery -A tasks worker``. This module contains all settings of a worker except the number of
slots, so the command needs no other options. Celery, kombu and redis-py are pinned, because these settings were
measured on those versions.
"""

from __future__ import annotations

import warnings

from celery import Celery
from celery.exceptions import SecurityWarning
from kombu.entity import Exchange, Queue

from config import limits
from config.settings import settings
from tasks.broker import ack_batcher, backend, transport
from tasks.broker import client as broker_client

#: The version of everything sent through Redis: the tasks and their arguments, a run's options, the Outcomes, the
#: signals. Increase the version whenever the form of one of these changes. Each version has its own queues. So a worker
#: of another version never misreads a message or drops it as an unknown task. The message waits for a suitable worker.
PROTOCOL = 12
#: The queue of the images of all runs.
IMAGE_QUEUE = f"imagefleet.images.{PROTOCOL}"
#: The queue of collect tasks. In the image queue, a collect task would wait behind all queued images.
SHARD_QUEUE = f"imagefleet.shards.{PROTOCOL}"
#: The tasks' names in messages.
FETCH_IMAGE = "tasks.jobs.fetch_image"
COLLECT_SHARD = "tasks.jobs.collect_shard"
#: The remote control command to ask a worker for its version, slots and settings.
WORKER_INFO = "imagefleet"
#: The remote control command to make a worker check an output folder.
PROBE_FOLDER = "imagefleet_probe_folder"
#: The remote control command to make a worker drop a run's queued tasks and report the run's running tasks.
DRAIN = "imagefleet_drain"

_DEFAULT_BROKER = "redis://localhost:6379/0"
#: Maximum Redis connections of one process: for its slots, the consumer, events, remote control and chords.
_CONNECTIONS = 512

_TRANSPORT_OPTIONS = {
    "visibility_timeout": limits.VISIBILITY_TIMEOUT,
    # Every 10 s, one of the workers looks for messages of lost workers.
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # Use only one list for each queue. We use no priorities, and each priority step would add a list to poll.
    "priority_steps": [0],
    "max_connections": _CONNECTIONS,
    "socket_timeout": 30,
    "health_check_interval": 30,
}
#: These options are not used for a Unix socket, because redis-py refuses them there.
_TCP_OPTIONS = {"socket_connect_timeout": 10, "socket_keepalive": True}

# Celery warns if a worker runs as root, or as a user or group without a name, because a pickled message can run code.
# All of our messages are JSON, so the warning does not apply.
warnings.filterwarnings("ignore", category=SecurityWarning)

transport.install(ack_batcher.running_task_ids, ack_batcher.finish_pending)
app = Celery("imagefleet", include=["tasks.jobs", "tasks.worker", "tasks.remote_control"], set_as_current=True)
backend.install(app, batched_tasks=frozenset([FETCH_IMAGE]))
app.conf.update(
    # Only JSON is accepted, so a message can't contain code.
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    # A task is acknowledged only when it is done, so a dead worker's tasks can be requeued.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # Results are in manifests. A chord's body gets the results of the chord's parts even with this setting.
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_queues=[
        Queue(IMAGE_QUEUE, Exchange(IMAGE_QUEUE), routing_key=IMAGE_QUEUE),
        Queue(SHARD_QUEUE, Exchange(SHARD_QUEUE), routing_key=SHARD_QUEUE),
    ],
    task_default_queue=IMAGE_QUEUE,
    task_default_exchange=IMAGE_QUEUE,
    task_default_routing_key=IMAGE_QUEUE,
    task_create_missing_queues=False,
    task_routes={FETCH_IMAGE: {"queue": IMAGE_QUEUE}, COLLECT_SHARD: {"queue": SHARD_QUEUE}},
    task_publish_retry_policy={
        "max_retries": 10,
        "interval_start": 0.1,
        "interval_step": 0.5,
        "interval_max": 3,
    },
    # prefork would need a process for each download, and gevent loses tasks on Redis.
    worker_pool="threads",
    worker_concurrency=limits.CONCURRENCY,
    worker_prefetch_multiplier=settings().prefetch,
    # Soft and cold shutdowns do not work with threads. The warm shutdown finishes the running tasks.
    worker_soft_shutdown_timeout=0,
    worker_deduplicate_successful_tasks=False,
    # If this setting were on, a worker would reserve fewer tasks after each reconnect until Celery itself acknowledges
    # a task. Celery itself never acknowledges our tasks, because the batcher does so.
    worker_enable_prefetch_count_reduction=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=True,
    worker_send_task_events=settings().task_events,
    worker_detect_quorum_queues=False,
    # A worker survives restarts of its broker.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_pool_limit=16,
    redis_max_connections=_CONNECTIONS,
    redis_socket_timeout=30.0,
    redis_socket_connect_timeout=10.0,
    redis_retry_on_timeout=True,
    redis_backend_health_check_interval=30,
    result_chord_join_timeout=3.0,
    # The keys left by the chords of an abandoned run expire after a day.
    result_expires=24 * 3600,
)


def use_broker(url: str) -> None:
    """Let the app use this Redis, for tasks and for chords. The app's connections to its previous Redis are closed.

    Raises:
        UsageError: the URL can't be used safely.
    """
    broker_client.check_url(url)
    # Our own clients use the URL as given. In Celery's URL, the parts unknown to Celery are removed.
    app.conf.imagefleet_broker_url = url
    app.conf.broker_url = app.conf.result_backend = broker_client.celery_url(url)
    # Flower's view of the queues does not read the TLS options from the URL, but all other clients do.
    app.conf.broker_use_ssl = broker_client.tls(url) or False
    tcp = not url.startswith("redis+socket:")
    sentinels = {}
    if broker_client.is_sentinel(url):
        sentinels = {
            "master_name": broker_client.master_name(url),
            "sentinel_kwargs": broker_client.sentinel_options(url),
        }
    app.conf.broker_transport_options = {**_TRANSPORT_OPTIONS, **(_TCP_OPTIONS if tcp else {}), **sentinels}
    app.conf.result_backend_transport_options = sentinels
    app.conf.redis_socket_keepalive = tcp
    _close_connections()


def _close_connections() -> None:
    """Close the app's connections, because a program may use one broker after another."""
    # kombu returns the same pool again for the same broker, so the pools themselves stay open.
    # ``app.amqp`` is created when it is first used.
    for pool in (getattr(vars(app).get("amqp"), "_producer_pool", None), app._pool):
        if pool is not None:
            pool.resize(pool.limit, reset=True)
    # Celery calls this reset itself after a fork. Celery has no public function for this reset.
    app._after_fork()
    app._backend_cache = None
    vars(app._local).pop("backend", None)


use_broker(settings().broker or _DEFAULT_BROKER)
