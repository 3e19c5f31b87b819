"""Publish the tasks of a shard's chord, in batches of one producer; all ids follow from the run and the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import Signature

from tasks import model
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE, IMAGE_QUEUE, SHARD_QUEUE, app
from tasks.download.urls import MAX_LENGTH
from tasks.model import ImageRequest, Outcome, RunOptions, shard_name
from tasks.redaction import redacted

_BATCH = 500
_SERIALIZER, _PERSISTENT = "json", 2
#: The longest URL in what Flower shows of a task, in characters.
_MAX_URL_SHOWN = 120


class ChordPublisher:
    """Publishes the tasks of a run's chords."""

    def __init__(self, options: RunOptions) -> None:
        """Take the run's options."""
        self._run_id, self._options = options.run_id, options

    @property
    def _revision_suffix(self) -> str:
        """Tells the ids of a later pass from those of the first."""
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
        """Return what a shard's body is told of a later pass, and of a later command; nothing in the first ones."""
        later_pass = {"revision": self._options.revision, "count": size} if self._options.revision else {}
        next_epoch = {"epoch": self._options.epoch} if self._options.epoch else {}
        return {**later_pass, **next_epoch}

    def publish_body(self, shard: int, outcomes: Sequence[Outcome], size: int) -> None:
        """Send the body of a chord whose parts are all known, and which did not do that itself."""
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
        """Send tasks of a shard whose chord has a part for each of its requests: all of them, or some."""
        group, size = self.group_id(shard), len(requests)
        body = dict(
            Signature(
                COLLECT_SHARD,
                kwargs={"run_id": self._run_id, "shard": shard, **self._body_kwargs(size)},
                options={"task_id": self.body_id(shard)},
                app=app,
            )
        )
        kwargs: dict[str, Any] = {"revision": self._options.revision} if self._options.revision else {}
        if recover:
            kwargs["recover"] = True
        app.backend.set_chord_size(group, size)
        # Chords are counted by the place of each part.
        wanted = {request.index for request in sent}
        reply_to = app.thread_oid
        with app.producer_or_acquire() as producer, producer.batch(_BATCH):
            for place, request in enumerate(requests):
                if request.index not in wanted:
                    continue
                # A URL that is too long is refused by the worker all the same: one character over the limit tells.
                url = request.url[: MAX_LENGTH + 1]
                previous = {} if request.previous is None else {"previous": request.previous.to_json()}
                # What `send_task` does, without asking anew for each image what holds for all: the route, the options.
                headers, properties, content, _ = app.amqp.as_task_v2(
                    self.task_id(request),
                    FETCH_IMAGE,
                    args=(self._run_id, request.index, url),
                    kwargs={**kwargs, **previous},
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
