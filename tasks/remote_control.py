"""Handle the producer's remote control commands, which inspect this worker or drain a run."""

from __future__ import annotations

from time import time
from typing import Any

from celery.worker.control import inspect_command

from config import VERSION
from config.settings import settings
from tasks import file_descriptors, worker
from tasks.celery import DRAIN, PROBE_FOLDER, PROTOCOL, WORKER_INFO
from tasks.storage.folder_probe import probe_folder
from tasks.storage.locations import missing_folders


@inspect_command(name=WORKER_INFO)
def _worker_info(state: Any, **_: Any) -> dict[str, Any]:
    """Return this worker's version, slots, queues, allowed folders, problems and clock."""
    return {
        "protocol": PROTOCOL,
        "version": VERSION,
        "slots": state.consumer.pool.num_processes,
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "store_roots": [str(root) for root in settings().store_roots],
        "missing_store_roots": missing_folders(settings().store_roots),
        "insecure_tls": settings().allow_insecure_tls,
        "troubles": worker.fitness().troubles,
        "time": time(),
        "descriptors": file_descriptors.limit(),
    }


@inspect_command(name=PROBE_FOLDER)
def _probe_folder(state: Any, out: Any = None, token: Any = None, **_: Any) -> dict[str, Any]:
    """Return how this worker sees an output folder in which the producer has written a probe file."""
    return probe_folder(out, token, settings().store_roots).to_json()


@inspect_command(name=DRAIN)
def _drain(state: Any, run_id: Any = None, **_: Any) -> dict[str, int]:
    """Drop the queued tasks of a draining run. Return the numbers of its images and shards still in slots."""
    worker.run_cache().forget(str(run_id))
    at = worker.slot_task_ids(str(run_id))
    shards = sum(task_id.endswith(".collect") for task_id in at)
    return {"images": len(at) - shards, "shards": shards}
