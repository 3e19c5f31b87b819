"""Fetch a suspect image in a separate process, because the image may kill the process that fetches it.

``python -m tasks.isolation`` reads the request as JSON from stdin and writes the Outcome as JSON to stdout. The
separate process inherits the worker's environment, and thus its settings.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from config.settings import settings
from tasks import fetch as fetching
from tasks import runtime_tuning
from tasks.download.downloader import create_downloader
from tasks.errors import CrashedError, FetchError, FetchTimeoutError
from tasks.fetch import FetchRequest
from tasks.file_descriptors import retry_when_exhausted
from tasks.model import Outcome, RunOptions, image_key
from tasks.retry_later import PriorAttempts
from tasks.storage.locations import open_allowed

#: The command that starts the separate process; each process fetches one image.
PROGRAM = (sys.executable, "-m", "tasks.isolation")
#: Seconds that the process gets in addition to a delivery's deadline, for the start of the process and for steps
#: without a deadline.
_MARGIN_SECONDS = 30.0
#: Limits how many of these processes a worker runs at once, because each process needs memory for its own interpreter.
_PROCESSES = threading.BoundedSemaphore(4)
#: Exit codes after signals that ask a process to end. An exit after such a signal says nothing about the image.
_REQUESTED_EXITS = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
#: Maximum number of starts of the process if such a signal ends it each time.
_ATTEMPTS = 3
_ROOT = Path(__file__).parents[1]


def fetch(request: FetchRequest, run: RunOptions) -> Outcome:
    """Fetch one image as `tasks.fetch.fetch` does, in another process; if that process crashes, the Outcome says so.

    A long wait is not deferred, so that the suspect image is finished as soon as possible. A previous run's image is
    not reused.
    """
    message = json.dumps(
        {
            "url": request.url,
            "index": request.index,
            "run": run.to_json(),
            "recover": request.recover,
            "prior": asdict(request.prior),
            "path": request.path,
            "expected_hash": request.expected_hash,
            "queued_seconds": request.queued_seconds,
        }
    )
    try:
        with _PROCESSES:
            return _run_isolated(message, run.fetch.deadline + _MARGIN_SECONDS)
    except FetchError as error:
        return fetching.failed_outcome(image_key(request.index, run.shard_size), error)


def _run_isolated(message: str, seconds: float) -> Outcome:
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    for _ in range(_ATTEMPTS):
        try:
            # The process gets a session of its own, so that Ctrl-C in the terminal does not reach it. The worker
            # finishes its current images first.
            ended = _run_process(
                PROGRAM,
                input=message,
                stdout=subprocess.PIPE,
                text=True,
                timeout=seconds,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
                check=False,
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired as error:
            raise FetchTimeoutError(f"the separate process for the image did not end within {seconds:.0f} s") from error
        if ended.returncode not in _REQUESTED_EXITS:
            break
    if ended.returncode < 0:
        raise CrashedError(f"the separate process for the image was ended by signal {-ended.returncode}")
    try:
        return Outcome.from_json(json.loads(ended.stdout))
    except (ValueError, KeyError, TypeError) as error:
        raise CrashedError(
            f"the separate process for the image exited with status {ended.returncode} and without a result"
        ) from error


#: The pipes to a process need file descriptors.
_run_process = retry_when_exhausted(subprocess.run)


def main() -> None:
    """Fetch the image described on stdin, and write its Outcome to stdout."""
    # If memory is short, the kernel kills this process rather than the worker.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    message = json.load(sys.stdin)
    run = RunOptions.from_json(message["run"])
    request = FetchRequest(
        message["url"],
        message["index"],
        message["recover"],
        prior=PriorAttempts(**message["prior"]),
        path=message["path"],
        expected_hash=message["expected_hash"],
        queued_seconds=message["queued_seconds"],
    )
    store = open_allowed(run.out, settings().store_roots)
    outcome = fetching.fetch(request, run, store, create_downloader())
    json.dump(outcome.to_json(), sys.stdout)


if __name__ == "__main__":
    main()
