"""Publish the tasks of a shard as a Celery chord: one task for each image, and a collect task as the chord's body.

``chord().apply_async`` would send the same messages, but several times more slowly than the single kombu producer
here, which sends them in batches. All ids are derived from the run and the image, and Celery counts a chord's parts by
id. So the producer can repeat a batch that failed halfway.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from celery import Signature

from producer.dispatch.spread import spread_hosts
from tasks import model
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE, IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.download.urls import MAX_LENGTH
from tasks.model import ImageRequest, Outcome, RunOptions, shard_name
from tasks.redaction import redacted

#: The number of messages to send in one round trip.
_BATCH_MESSAGES = 500
_SERIALIZER, _PERSISTENT = "json", 2
#: The longest URL that Flower shows for a task, in characters.
_MAX_URL_SHOWN = 120


class ChordPublisher:
    """Publishes the tasks of a run's chords."""

    def __init__(self, options: RunOptions) -> None:
        """Take the options of the run."""
        self._run_id, self._options = options.run_id, options

    @property
    def _revision_suffix(self) -> str:
        """A suffix that distinguishes the ids of a later revision from the ids of the first revision."""
        return f".{self._options.revision}" if self._options.revision else ""

    def group_id(self, shard: int) -> str:
        """Return the id of a shard's chord."""
        return f"{self._run_id}.{shard_name(shard)}{self._revision_suffix}"

    def body_id(self, shard: int) -> str:
        """Return the id of a shard's collect task."""
        return f"{self.group_id(shard)}.collect"

    def image_key(self, request: ImageRequest) -> str:
        """Return an image's key."""
        return model.image_key(request.index, self._options.shard_size)

    def task_id(self, request: ImageRequest) -> str:
        """Return the id of an image's task."""
        return f"{self._run_id}.{self.image_key(request)}{self._revision_suffix}"

    def _body_kwargs(self, size: int) -> dict[str, Any]:
        """Return the arguments that tell a collect task the revision and the producer epoch, unless these are 0."""
        later_revision = {"revision": self._options.revision, "count": size} if self._options.revision else {}
        next_epoch = {"epoch": self._options.epoch} if self._options.epoch else {}
        return {**later_revision, **next_epoch}

    def _body(self, shard: int, size: int) -> dict[str, Any]:
        """Return a chord's body in the form that the chord's image tasks contain."""
        kwargs = {"run_id": self._run_id, "shard": shard, **self._body_kwargs(size)}
        return dict(Signature(COLLECT_SHARD, kwargs=kwargs, options={"task_id": self.body_id(shard)}, app=app))

    def publish_body(self, shard: int, outcomes: Sequence[Outcome], size: int) -> None:
        """Send the missing body of a chord. The chord already has all its Outcomes."""
        app.send_task(
            COLLECT_SHARD,
            args=([outcome.to_json() for outcome in outcomes],),
            kwargs={"run_id": self._run_id, "shard": shard, **self._body_kwargs(size)},
            task_id=self.body_id(shard),
            queue=SHARD_QUEUE,
            ignore_result=True,
            argsrepr="()",
            retry=False,
        )

    def publish(
        self, shard: int, requests: Sequence[ImageRequest], sent: Sequence[ImageRequest], recover: bool = False
    ) -> None:
        """Send all or some tasks of a shard.

        Args:
            shard: the shard.
            requests: all requests of the shard, in order. Each request is a part of the chord.
            sent: the requests to send tasks for.
            recover: whether the tasks check for an existing image first.
        """
        group, size = self.group_id(shard), len(requests)
        body = self._body(shard, size)
        kwargs: dict[str, Any] = {"sent": round(time.time(), 3)}
        if self._options.revision:
            kwargs["revision"] = self._options.revision
        if recover:
            kwargs["recover"] = True
        app.backend.set_chord_size(group, size)
        # A chord part is identified by the place of its request among all requests of the shard.
        wanted = {request.index for request in sent}
        reply_to = app.thread_oid
        with app.producer_or_acquire() as producer, producer.batch(_BATCH_MESSAGES):
            for place, request in spread_hosts([pair for pair in enumerate(requests) if pair[1].index in wanted]):
                # A worker refuses a URL that is longer than the limit. So the URL is cut one character after the limit.
                url = request.url[: MAX_LENGTH + 1]
                # This does the same as `send_task`, without looking up the route and the options again for each image.
                headers, properties, content, _ = app.amqp.as_task_v2(
                    self.task_id(request),
                    FETCH_IMAGE,
                    args=(self._run_id, request.index, url),
                    kwargs={**kwargs, **_facts(request)},
                    group_id=group,
                    group_index=place,
                    chord=body,
                    reply_to=reply_to,
                    ignore_result=True,
                    argsrepr=redacted(url)[:_MAX_URL_SHOWN],
                    kwargsrepr="{}",
                )
                producer.publish(
                    content,
                    exchange="",
                    routing_key=IMAGE_QUEUE,
                    serializer=_SERIALIZER,
                    headers=headers,
                    delivery_mode=_PERSISTENT,
                    **properties,
                )


def _facts(request: ImageRequest) -> dict[str, Any]:
    """Return the facts of a request as the arguments of its task. Absent facts are left out of the message."""
    facts = {
        "previous": None if request.previous is None else request.previous.to_json(),
        "refused": None if request.refused is None else asdict(request.refused),
        "path": request.path,
        "expected_hash": request.expected_hash,
    }
    return {name: value for name, value in facts.items() if value is not None}
