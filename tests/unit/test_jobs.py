"""Tasks are resent with the attempts and time of earlier deliveries. Tasks refuse wrong arguments."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.exceptions import Reject, Retry

from tasks import isolation, jobs
from tasks.deadline import Deadline
from tasks.download.adapters import Sessions
from tasks.download.downloader import Downloader
from tasks.download.guard import Guard
from tasks.errors import HostRestingError
from tasks.fetch import FetchRequest
from tasks.model import FetchOptions, Reason, RunOptions
from tasks.request_gate import OpenGate, Permit
from tasks.retry_later import PriorAttempts, RetryLater
from tasks.throttle_options import Target, ThrottleOptions


class Sending:
    """Simulate a task for which this many attempts to send it fail."""

    def __init__(self, failures: int, **kwargs: Any) -> None:
        self.request = SimpleNamespace(
            args=["run", 7, "http://a/?token=x"], kwargs=kwargs, argsrepr="a", kwargsrepr="{}"
        )
        self.sent: list[dict[str, Any]] = []
        self._failures = failures

    def retry(self, **options: Any) -> Retry:
        """Do the same as Celery, except for sending the message."""
        if self._failures:
            self._failures -= 1
            raise Reject(OSError("away"), requeue=False)
        self.sent.append(options)
        return Retry(exc=options["exc"], when=options["countdown"])


_LATER = RetryLater("HTTP 429", 61.5, PriorAttempts(2, 0.75))


def test_task_is_resent_with_its_attempts_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resending keeps the arguments and redacted texts, and adds attempts and time.

    The wait counts as time in the queue only after its end. Resending waits for an unreachable Redis.
    """
    monkeypatch.setattr("tasks.broker.redis_retry.time.sleep", lambda _: None)
    task: Any = Sending(2, revision=1, recover=True, attempts=1, seconds=0.5)
    assert jobs._requeue_later(task, _LATER).when == 61.5
    (sent,) = task.sent
    assert sent["args"] == task.request.args
    assert sent["kwargs"].pop("sent") == pytest.approx(time.time() + 61.5, abs=30)
    assert sent["kwargs"] == {"revision": 1, "recover": True, "attempts": 2, "seconds": 0.75}
    assert (sent["argsrepr"], sent["kwargsrepr"], str(sent["exc"])) == ("a", "{}", "HTTP 429")


def test_stopping_worker_does_not_wait_to_resend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopping worker leaves the message unacknowledged, so another worker gets it."""
    monkeypatch.setattr("tasks.broker.redis_retry.worker_is_stopping", lambda: True)
    task: Any = Sending(1)
    with pytest.raises(redis.ConnectionError):
        jobs._requeue_later(task, _LATER)


def test_suspect_image_of_a_resting_host_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the host of a suspect image is given up, the image gets an Outcome, because an error would end its chord."""

    class Resting(OpenGate):
        def enter(self, target: Target, throttle: ThrottleOptions, deadline: Deadline) -> Permit:
            raise HostRestingError("a.example rests")

    monkeypatch.setattr(isolation, "fetch", lambda *_: pytest.fail("the image was requested"))
    run = RunOptions("/out", 10, FetchOptions())
    outcome = jobs._fetch_isolated(
        FetchRequest("http://a.example/1.jpg", 3), run, Downloader(Sessions(Guard()), gate=Resting())
    )
    assert outcome.reason is Reason.HOST_RESTING


@pytest.mark.parametrize("arguments", [["http://a.example/1.jpg"], [], ["run", 0, *range(12)]])
@pytest.mark.parametrize("task", [jobs.fetch_image, jobs.collect_shard])
def test_task_sent_by_hand_names_the_command(task: Any, arguments: list[Any]) -> None:
    """If a task is called at a Celery prompt, it fails before anything is sent. The error names the right command."""
    with pytest.raises(TypeError, match=r"call `producer run SOURCE --out OUT`$"):
        task.delay(*arguments)
