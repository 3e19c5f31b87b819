"""The Celery app, and its configuration with the reason for each setting.

Workers start with ``celery -A tasks worker``; what they need beyond their size stands here, so that the plain command
is right. Celery, kombu and redis-py are pinned: these settings were measured on those versions.
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

#: The form of all that crosses Redis: the tasks and their arguments, a run's options, the Outcomes, the signals. Raise
#: it with every change of one of them. Each form has queues of its own, so a worker of another version never takes what
#: it would read wrongly, or would drop because it knows no such task: it waits for a worker that knows it.
PROTOCOL = 6
#: Where the images of all runs wait.
IMAGE_QUEUE = f"imagefleet.images.{PROTOCOL}"
#: Where finished chords' bodies wait: of its own, or a body would wait behind every image that is queued.
SHARD_QUEUE = f"imagefleet.shards.{PROTOCOL}"
#: The tasks' names, as they stand in messages.
FETCH_IMAGE = "tasks.jobs.fetch_image"
COLLECT_SHARD = "tasks.jobs.collect_shard"
#: The remote control command by which a worker says what it is.
WORKER_INFO = "imagefleet"
#: The remote control command by which a worker says how it sees an output folder.
PROBE_FOLDER = "imagefleet_probe_folder"
#: The remote control command by which a worker drops what is queued of a run that ends, and says what it is at.
DRAIN = "imagefleet_drain"

_DEFAULT_BROKER = "redis://localhost:6379/0"
#: Connections that one process may hold: its slots, and room for the consumer, events, remote control and chords.
_CONNECTIONS = 512

_TRANSPORT_OPTIONS = {
    "visibility_timeout": limits.VISIBILITY_TIMEOUT,
    # A lost worker's messages are looked for every 10 s by whichever worker comes first.
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # One list for each queue: we use no priorities, and each step would be one more list to look at.
    "priority_steps": [0],
    "max_connections": _CONNECTIONS,
    "socket_timeout": 30,
    "health_check_interval": 30,
}
#: What a Unix socket has no use for, and redis-py refuses there.
_TCP_OPTIONS = {"socket_connect_timeout": 10, "socket_keepalive": True}

# Celery warns of root because a pickled message can run code, and takes a user or group that has no name for root. Our
# messages are JSON alone.
warnings.filterwarnings("ignore", category=SecurityWarning)

transport.install(ack_batcher.running_task_ids, ack_batcher.finish_pending)
app = Celery("imagefleet", include=["tasks.jobs", "tasks.worker", "tasks.remote_control"], set_as_current=True)
backend.install(app, batched_tasks=frozenset([FETCH_IMAGE]))
app.conf.update(
    # JSON alone: a message can hold no code.
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    # A task is acknowledged when it is done, so that a worker that dies gives its tasks back.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # Results live in manifests. A chord's part reaches its body all the same.
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
    # Soft and cold shutdowns fail with threads; the warm one finishes what runs.
    worker_soft_shutdown_timeout=0,
    worker_deduplicate_successful_tasks=False,
    # It would let a worker reserve less after each reconnect, until acknowledgements that Celery itself makes.
    worker_enable_prefetch_count_reduction=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=True,
    worker_send_task_events=settings().task_events,
    worker_detect_quorum_queues=False,
    # A worker outlives its broker's restarts.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_pool_limit=16,
    redis_max_connections=_CONNECTIONS,
    redis_socket_timeout=30.0,
    redis_socket_connect_timeout=10.0,
    redis_retry_on_timeout=True,
    redis_backend_health_check_interval=30,
    result_chord_join_timeout=3.0,
    # What is left of a chord whose run was given up goes after a day.
    result_expires=24 * 3600,
)


def use_broker(url: str) -> None:
    """Let the app talk to this Redis, for tasks and for chords; to be called before its first connection.

    Raises:
        UsageError: the URL is not one that can be used safely.
    """
    broker_client.check_url(url)
    # As it was given, for clients of our own; Celery's leaves out what it can't read.
    app.conf.imagefleet_broker_url = url
    app.conf.broker_url = app.conf.result_backend = broker_client.celery_url(url)
    # All others read it from the URL; Flower's view of the queues does not.
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


use_broker(settings().broker or _DEFAULT_BROKER)
