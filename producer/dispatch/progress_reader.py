"""Read the progress of a run from Redis, and explain delays to the user."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import cast

import redis

from producer.dispatch.earlier_images import EarlierImages
from producer.dispatch.fleet_watch import FleetWatch
from producer.dispatch.parked_shards import ParkedShards
from producer.dispatch.progress import Progress
from producer.dispatch.recovery import ShardInFlight
from producer.dispatch.saving_check import SavingCheck
from producer.dispatch.speed_meter import SpeedMeter
from producer.dispatch.unfit_workers import UnfitWorkers
from producer.dispatch.workers import describe_workers
from tasks.broker import keys
from tasks.broker.progress import REASON
from tasks.broker.redis_errors import redis_problem

#: After this many seconds without a finished image, the note for the user says which workers respond.
_IDLE_NOTICE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class DispatchState:
    """What a dispatcher knows about the progress of its run."""

    #: The number of planned images, and whether the plan is complete.
    planned: int
    plan_complete: bool
    #: The images that earlier commands have finished.
    earlier: EarlierImages
    in_flight: Collection[ShardInFlight]
    #: The number of images in the shards that this command has completed. None for a resumed run, because the workers'
    #: sums may include images of an earlier command.
    completed: int | None
    #: The number of images still being downloaded after the run was told to end early; None before.
    finishing: int | None
    #: The time of the first task, in seconds of the monotonic clock; 0 before.
    first_sent: float = 0.0
    #: The number of lost tasks that were sent again.
    repaired: int = 0


class ProgressReader:
    """Reads the progress of one run."""

    def __init__(
        self,
        server: redis.Redis,
        run_id: str,
        unfit: UnfitWorkers,
        saving_check: SavingCheck,
        parked: ParkedShards,
        is_local: bool,
    ) -> None:
        """Take the run.

        Args:
            server: the run's Redis: a client with `decode_responses`.
            run_id: the run.
            unfit: the unfit workers of the run.
            saving_check: gets the number of images that could not be saved.
            parked: the images of the run that wait for busy hosts.
            is_local: whether the workers are a local fleet.
        """
        self._server, self._run_id, self._is_local = server, run_id, is_local
        self._unfit, self._saving_check, self._parked = unfit, saving_check, parked
        self._ended, self._idle_since, self._idle_text = 0, time.monotonic(), ""
        self._last: Progress | None = None
        self._speed, self._fleet = SpeedMeter(), FleetWatch(server, parked.hosts)

    def read(self, state: DispatchState) -> Progress:
        """Return the progress.

        While Redis is unreachable, return the last progress with a note about Redis. The next operation on Redis waits
        until Redis is back.

        Raises:
            CommandError: the workers can save no images.
        """
        try:
            sums = cast("dict[str, str]", self._server.hgetall(keys.progress(self._run_id)))
        except redis.RedisError as error:
            if self._last is not None:
                return replace(self._last, note=redis_problem(error).note)
            sums = {}
        success, failed, size = (int(sums.get(name, 0)) for name in ("success", "failed", "bytes"))
        self._saving_check.update(success, int(sums.get("unsaved", 0)))
        note = self._note(success + failed, state)
        earlier = state.earlier
        open_images = max(state.planned - earlier.total, 0)
        # If a task was delivered twice, its image counts twice, usually as saved.
        failed = min(failed, open_images)
        success = min(success, open_images - failed)
        ended = success + failed
        remaining = open_images - ended if state.plan_complete and state.finishing is None else None
        self._last = Progress(
            earlier.success + success,
            earlier.failed + failed,
            earlier.bytes + size,
            state.planned,
            state.plan_complete,
            earlier.total,
            _reasons(sums, earlier),
            note,
            state.finishing,
            waiting=self._parked.images,
            busiest_host=self._parked.hosts.busiest,
            busy_hosts=self._parked.hosts.busy,
            shards_in_flight=len(state.in_flight),
            repaired=state.repaired,
            speed=self._speed.measure(ended, size, state.first_sent, remaining),
            fleet=self._fleet.look(),
        )
        return self._last

    def _note(self, ended: int, state: DispatchState) -> str:
        """Return a note for the user.

        If no image has ended for a while, the note is about all workers. Otherwise it is about the unfit workers. If
        all images in flight wait for busy hosts, the workers are not the cause.
        """
        now = time.monotonic()
        if ended != self._ended or not state.in_flight:
            self._ended, self._idle_since, self._idle_text = ended, now, ""
        elif now - self._idle_since > _IDLE_NOTICE_SECONDS:
            self._idle_since = now
            images = _images_in_flight(ended, state)
            is_waiting = 0 < images <= self._parked.images
            self._idle_text = "" if is_waiting else describe_workers(self._is_local, images, self._server)
        return self._idle_text or self._unfit.note


def _images_in_flight(ended: int, state: DispatchState) -> int:
    """Return the approximate number of images in flight, after this number of images has ended."""
    # ``counted`` is the number of a chord's parts at the last inspection. The workers' sums are newer, but in a resumed
    # run these sums may include images of an earlier command.
    images = sum(max(shard.images - shard.counted, 0) for shard in state.in_flight)
    if state.completed is not None:
        sent = sum(shard.images for shard in state.in_flight)
        images = min(images, max(sent - (ended - state.completed), 0))
    return images


def _reasons(sums: Mapping[str, str], earlier: EarlierImages) -> dict[str, int]:
    """Return the number of failed images for each reason, from the workers' sums. The most frequent reason is first."""
    found = {name.removeprefix(REASON): int(count) for name, count in sums.items() if name.startswith(REASON)}
    counts = earlier.reasons + Counter(found)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
