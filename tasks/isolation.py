"""One image fetched alone, in a process of its own: for a suspect, which may end the process that fetches it.

``python -m tasks.isolation`` reads the request as JSON on its standard input and writes the Outcome as JSON on its
standard output. It has the worker's environment, and so its settings.
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
from tasks.download import downloader as downloading
from tasks.download.downloader import Downloader
from tasks.errors import CrashedError, FetchError, FetchTimeoutError
from tasks.file_descriptors import retry_when_exhausted
from tasks.model import Outcome, RunOptions, image_key
from tasks.retry_later import NO_PRIOR_ATTEMPTS, PriorAttempts
from tasks.storage.store import Store

#: What fetches; it is started anew for each image.
PROGRAM = (sys.executable, "-m", "tasks.isolation")
#: Seconds beside the deadline of a delivery: for the start of the process, and for what no deadline ends.
_MARGIN_SECONDS = 30.0
#: How many a worker runs at a time: each has an interpreter of its own in memory.
_PROCESSES = threading.BoundedSemaphore(4)
#: How these signals end a process says nothing of an image: somebody asked it to end.
_REQUESTED_EXITS = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
#: How often it is started where it was asked to end.
_ATTEMPTS = 3
_ROOT = Path(__file__).parents[1]


def fetch(
    url: str,
    index: int,
    run: RunOptions,
    store: Store,
    downloader: Downloader,
    recover: bool = False,
    prior: PriorAttempts = NO_PRIOR_ATTEMPTS,
) -> Outcome:
    """Fetch one image as `tasks.fetch.fetch` does, in another process; if that dies, so says the Outcome.

    No slot is handed back for a suspect: it is done with as soon as may be. Nor is a previous run's image taken over.
    """
    request = json.dumps({"url": url, "index": index, "run": run.to_json(), "recover": recover, "prior": asdict(prior)})
    try:
        with _PROCESSES:
            return _run_isolated(request, run.fetch.deadline + _MARGIN_SECONDS)
    except FetchError as error:
        return fetching.failed_outcome(image_key(index, run.shard_size), error)


def _run_isolated(request: str, seconds: float) -> Outcome:
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    for _ in range(_ATTEMPTS):
        try:
            # In a session of its own, a terminal's Ctrl-C does not reach it: the worker finishes what it is at.
            ended = _run_process(
                PROGRAM,
                input=request,
                stdout=subprocess.PIPE,
                text=True,
                timeout=seconds,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
                check=False,
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired as error:
            raise FetchTimeoutError(f"the process that fetched it alone did not end within {seconds:.0f} s") from error
        if ended.returncode not in _REQUESTED_EXITS:
            break
    if ended.returncode < 0:
        raise CrashedError(f"the process that fetched it alone was ended by signal {-ended.returncode}")
    try:
        return Outcome.from_json(json.loads(ended.stdout))
    except (ValueError, KeyError, TypeError) as error:
        raise CrashedError(
            f"the process that fetched it alone ended with status {ended.returncode} and without an answer"
        ) from error


#: The pipes of a process take descriptors.
_run_process = retry_when_exhausted(subprocess.run)


def main() -> None:
    """Fetch the image that standard input names, and say on standard output what became of it."""
    # Where memory is short, this process is the one to go, not the worker.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    runtime_tuning.return_large_blocks()
    runtime_tuning.configure_pillow()
    request = json.load(sys.stdin)
    run = RunOptions.from_json(request["run"])
    store = Store.open_allowed(run.out, settings().store_roots)
    downloader = downloading.create_downloader()
    prior = PriorAttempts(**request["prior"])
    outcome = fetching.fetch(request["url"], request["index"], run, store, downloader, request["recover"], prior)
    json.dump(outcome.to_json(), sys.stdout)


if __name__ == "__main__":
    main()
