"""A run can be cancelled. A run can be resumed, however its producer ended. Its failed images can be retried."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from producer.demo import draw_image
from tasks.celery import IMAGE_QUEUE
from tests.integration import processes
from tests.unit.conftest import Canned, response

_IMAGES = 240
_SHARD = 40
_SLOW = 0.5
#: The slots of both workers of the fleet.
_SLOTS = 64
_places = count(1)


@dataclass
class Running:
    """A run with a started producer, and the demo server's number of image requests before the run."""

    producer: processes.Background
    out: Path
    broker: str
    demo: str
    requests_before: int

    @property
    def requested(self) -> int:
        """Return the number of requests for images since the run's start."""
        return processes.request_count(self.demo, "/images") - self.requests_before

    def manifests(self) -> int:
        """Return the number of finished shards."""
        return len(list(self.out.glob("0*.parquet")))

    def until_begun(self) -> None:
        """Wait for the first manifest."""
        processes.eventually(self.manifests, "a manifest")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.kill(self.producer.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the producer."""
        self.producer.process.kill()
        self.producer.process.wait()

    def again(self, command: str, *options: str) -> processes.Completed:
        """Call a command for the folder and the broker of the run."""
        return processes.producer(command, self.out, "--broker", self.broker, *options)

    def assert_whole(self, images: int = _IMAGES) -> None:
        """Make sure that each request has exactly one Outcome, a success, and a file."""
        rows = processes.rows(self.out)
        assert [row["key"][-2:] for row in rows] == [f"{index % _SHARD:02d}" for index in range(images)]
        assert {row["status"] for row in rows} == {"success"}
        assert processes.image_files(self.out) == {row["path"] for row in rows}
        assert json.loads((self.out / "run.json").read_text())["state"] == "complete"


def failed_urls(out: Path) -> list[str]:
    """Return the URLs in the list of failures of a run."""
    return [json.loads(line)["url"] for line in (out / "failures.jsonl").read_text().splitlines()]


def lines(demo_url: str, images: int = _IMAGES) -> str:
    """Return a list of images. The server sends each image after a delay."""
    place = next(_places)
    return "".join(f"{demo_url}/images/{place * 1000 + index}.png?latency={_SLOW}\n" for index in range(images))


@contextmanager
def started_run(
    fleet: str, demo_url: str, out: Path, folder: Path, *options: str, stdin: bool = False, text: str | None = None
) -> Iterator[Running]:
    """Start a run of a list that is in a file or on standard input."""
    source = folder / "list.txt"
    source.write_text(text or lines(demo_url))
    arguments = ["run", "-" if stdin else source, "--out", out, "--broker", fleet, "--json"]
    argv = processes.command([*arguments, "--shard-size", str(_SHARD), "--window", "2", *options])
    before = processes.request_count(demo_url, "/images")
    pipe = subprocess.PIPE if stdin else subprocess.DEVNULL
    with processes.started("run", argv, folder, stdin=pipe) as process:
        yield Running(process, out, fleet, demo_url, before)


@pytest.fixture
def running(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> Iterator[Running]:
    """Give a run that reads its list from a file and has at least one finished shard."""
    with started_run(fleet, demo_url, out, tmp_path) as run:
        run.until_begun()
        yield run


def test_resumes_after_the_producer_was_killed(running: Running, tmp_path: Path) -> None:
    """A run with a killed producer is resumed, even without its list, and no image is requested twice."""
    running.kill()
    (tmp_path / "list.txt").unlink()
    assert not (running.out / "failures.jsonl").exists()
    facts = running.again("resume", "--json").json()
    assert (facts["total"], facts["success"]) == (_IMAGES, _IMAGES)
    assert failed_urls(running.out) == []
    assert facts["fetched"] < _IMAGES
    running.assert_whole()
    assert json.loads((running.out / "run.json").read_text())["epoch"] == 1
    assert running.requested == _IMAGES


@pytest.mark.slow
def test_resume_of_a_complete_run_does_nothing(running: Running) -> None:
    """If a complete run is resumed, the command only reports the run, and starts no fleet."""
    assert running.producer.wait().code == 0
    requested = running.requested
    ended = processes.producer("resume", running.out, "--json")
    assert ended.json()["total"] == _IMAGES
    assert "There is nothing to do" not in ended.out
    assert running.requested == requested


@pytest.mark.slow
def test_refuses_a_second_producer(running: Running) -> None:
    """While a producer lives, a second producer is refused, and the first producer continues."""
    ended = running.again("resume")
    assert ended.code == 2
    assert str(running.producer.process.pid) in processes.error_parts(ended)[1]
    assert running.producer.wait().code == 0
    running.assert_whole()


def test_resume_after_a_cut_standard_input(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """After a kill while standard input is open, `resume` finishes the plan and reports the number of planned rows."""
    text = lines(demo_url).encode()
    with started_run(fleet, demo_url, out, tmp_path, stdin=True) as run:
        pipe = run.producer.process.stdin
        assert pipe is not None
        # The number of images in two shards and a part of a third shard, which is never planned.
        pipe.write(b"".join(text.splitlines(keepends=True)[: 2 * _SHARD + 5]))
        pipe.flush()
        processes.eventually(lambda: len(list(out.glob(".plan/*"))) == 2, "the plan of two shards")
        run.kill()
    ended = processes.producer("resume", out, "--broker", fleet)
    assert ended.code == 1
    assert f"{2 * _SHARD} rows" in processes.error_parts(ended)[1]
    rows = processes.rows(out)
    assert len(rows) == 2 * _SHARD
    assert {row["status"] for row in rows} == {"success"}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["same", "other", "gone"])
def test_resume_continues_an_open_plan(fleet: str, demo_url: str, out: Path, tmp_path: Path, change: str) -> None:
    """A partly read, unchanged list is read to its end. If a list changed or is missing, only its plan is finished."""
    with started_run(fleet, demo_url, out, tmp_path) as run:
        run.until_begun()
        run.kill()
    # Leave the folder as a kill during planning leaves it: the last shards are not planned, and the plan is incomplete.
    for shard in (4, 5):
        (out / f".plan/0000{shard}.parquet").unlink()
    from producer.output.run_file import PlanState, RunFile
    from tasks.storage.local_store import LocalStore

    store = LocalStore(out)
    RunFile.load(store).save(store, plan=PlanState.OPEN, planned_rows=0, planned_shards=0)
    source = tmp_path / "list.txt"
    if change == "other":
        source.write_text(source.read_text().replace("latency=0.5", "latency=0.4"))
    elif change == "gone":
        source.unlink()
    ended = processes.producer("resume", out, "--broker", fleet, "--json")
    if change == "same":
        assert ended.json()["total"] == _IMAGES
        run.assert_whole()
    else:
        assert ended.code == 1
        assert f"{4 * _SHARD} rows" in ended.err
        assert len(processes.rows(out)) == 4 * _SHARD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_one_signal_finishes_the_downloads_in_progress(
    fleet: str, demo_url: str, out: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM ends a run after the downloads in progress. `resume` sends the dropped tasks again.

    Nothing is requested twice. Images that were saved before the end are counted, even in a shard without a manifest.
    """
    with started_run(fleet, demo_url, out, tmp_path, "--window", "6") as running:
        processes.eventually(lambda: list(out.glob("0*/*.png")), "an image")
        os.kill(running.producer.process.pid, number)
        ended = running.producer.wait()
        assert ended.code == 130, ended.err
        match = re.search(r"^Finishing (\d+) downloads? in progress\.", ended.err, re.MULTILINE)
        assert match is not None, ended.err
        assert 0 < int(match[1]) <= _SLOTS
        assert f"Resume with: producer resume {out}" in ended.err
        assert json.loads((out / "run.json").read_text())["state"] == "interrupted"
        # Every requested image is saved, and most images were not requested.
        assert running.requested == len(processes.image_files(out)) < _IMAGES
        running.again("resume", "--json").json()
        running.assert_whole()
        assert running.requested == _IMAGES


def test_two_interrupts_drop_what_is_queued(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """A second Ctrl-C drops the queued tasks without fetching them. The manifests stay, and the run can be resumed."""
    may_answer = threading.Event()

    def answer(_: bytes) -> list[bytes]:
        may_answer.wait(60)
        return [response(draw_image(1, 8, 8, "png"))]

    with Canned(answer) as slow:
        # The downloads in progress can't end before the second Ctrl-C.
        urls = lines(demo_url).splitlines()
        urls[_SHARD] = f"{slow.url}/1.png"
        with started_run(fleet, demo_url, out, tmp_path, text="\n".join(urls)) as running:
            running.until_begun()
            processes.eventually(lambda: slow.requests, "a request that has no answer yet")
            running.interrupt()
            processes.eventually(lambda: "Ctrl-C again" in running.producer.err, "the note")
            running.interrupt()
            assert running.producer.wait().code == 130
            may_answer.set()
            assert running.manifests()
            with processes.connect(running.broker) as server:
                processes.eventually(lambda: not server.llen(IMAGE_QUEUE), "an empty queue")
            running.again("resume", "--json").json()
            running.assert_whole()


def test_repeated_interrupts_end_likewise(running: Running) -> None:
    """If Ctrl-C is repeated until the process has ended, the exit status is 130, and the command to resume is shown."""
    process = running.producer.process
    while process.poll() is None:
        running.interrupt()
        time.sleep(0.002)
    ended = running.producer.wait()
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert f"producer resume {running.out}" in ended.err
    assert json.loads(ended.out)["interrupted"] is True
    running.again("resume", "--json").json()
    running.assert_whole()


@pytest.mark.slow
def test_cancel_ends_the_producer(running: Running) -> None:
    """`producer cancel` ends the run's producer, which drops the queued tasks. Afterwards, the run can be resumed."""
    ended = running.again("cancel")
    assert ended.code == 0, ended.err
    assert "cancelled" in ended.err
    completed = running.producer.wait()
    assert completed.code == 130
    result = json.loads(completed.out)
    assert (result["interrupted"], result["cancelled"], result["out"]) == (True, True, str(running.out))
    assert "Cancelled by another command." in completed.err
    assert json.loads((running.out / "run.json").read_text())["state"] == "cancelled"
    running.again("resume", "--json").json()
    running.assert_whole()


@pytest.mark.slow
def test_cancel_without_a_producer_drops_the_queue(running: Running) -> None:
    """`producer cancel` finds and drops the queued tasks of a killed producer."""
    running.kill()
    ended = processes.producer("cancel", running.out)
    assert ended.code == 0
    assert f"producer resume {running.out} --broker {running.broker}" in ended.err
    with processes.connect(running.broker) as server:
        processes.eventually(lambda: not server.llen(IMAGE_QUEUE), "an empty queue")
    assert running.manifests() < _IMAGES // _SHARD
    running.again("resume", "--json").json()
    running.assert_whole()


@pytest.mark.slow
def test_cancel_with_a_local_fleet(demo_url: str, out: Path, tmp_path: Path) -> None:
    """If a run has its own fleet, and therefore its own Redis, `producer cancel` ends the run's producer."""
    source = tmp_path / "list.txt"
    source.write_text(lines(demo_url))
    # The run must not finish before the cancel command has started.
    size = ("--workers", "1", "--concurrency", "8")
    argv = processes.command(["run", source, "--out", out, "--shard-size", str(_SHARD), "--window", "2", *size])
    allowed = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    with processes.started("run", argv, tmp_path, allowed) as process:
        processes.eventually(lambda: list(out.glob("0*.parquet")), "a manifest")
        ended = processes.producer("cancel", out)
        assert ended.code == 0, ended.err
        completed = process.wait()
        assert completed.code == 130
        assert "Cancelled by another command." in completed.err
    assert json.loads((out / "run.json").read_text())["state"] == "cancelled"


def test_retry_repeats_failures_that_may_succeed_now(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """`retry` repeats only images that may succeed now.

    The attempts of each image add up, and the command reports the changes.
    """
    port = processes.free_port()
    late = [f"http://127.0.0.1:{port}/images/{index}.png" for index in range(3)]
    good = [f"{demo_url}/images/{index}.png" for index in (7001, 7002)]
    gone = f"{demo_url}/fault/not-found"
    source = tmp_path / "list.txt"
    source.write_text("\n".join([late[0], good[0], gone, late[1], good[1], late[2]]))
    arguments = ("--broker", fleet, "--json")
    first = processes.producer("run", source, "--out", out, *arguments, "--retries", "1", "--shard-size", "3").json()
    assert first["reasons"] == {"connect": 3, "http_4xx": 1}
    assert failed_urls(out) == [late[0], gone, late[1], late[2]]
    requested, missing = (
        processes.request_count(demo_url, "/images"),
        processes.request_count(demo_url, "/fault/not-found"),
    )
    before = processes.rows(out)
    argv = [*processes.command([])[:1], "-m", "producer.demo", "--port", str(port), "--width", "80", "--height", "40"]
    with processes.started("late", argv, tmp_path) as server:
        server.first_line()
        again = processes.producer("retry", out, *arguments).json()
    assert (again["retried"], again["reasons"], again["success"]) == ({"connect": 3}, {"http_4xx": 1}, 5)
    assert failed_urls(out) == [gone]
    assert (processes.request_count(demo_url, "/images"), processes.request_count(demo_url, "/fault/not-found")) == (
        requested,
        missing,
    )
    rows = processes.rows(out)
    assert [row["attempts"] for row in rows] == [3, 1, 1, 3, 1, 3]
    assert [row for row in rows if row["url"] in [*good, gone]] == [
        row for row in before if row["url"] in [*good, gone]
    ]
    assert processes.image_files(out) == {row["path"] for row in rows if row["path"]}
    third = processes.producer("retry", out, *arguments)
    assert third.json()["retried"] == {}
    every = processes.producer("retry", out, "--all", *arguments).json()
    assert every["retried"] == {"http_4xx": 1}
    assert processes.rows(out)[2]["attempts"] == 2


@pytest.mark.parametrize("command", ["resume", "retry", "cancel"])
@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_folder_without_a_run_is_an_error(tmp_path: Path, command: str, place: str) -> None:
    """A missing folder, or a folder without a run, is an error with exit status 2."""
    (tmp_path / "empty").mkdir()
    ended = processes.producer(command, tmp_path / place)
    assert ended.code == 2
    assert place in processes.error_parts(ended)[0]


@pytest.mark.slow
def test_two_runs_share_a_fleet(fleet: str, demo_url: str, store_root: Path, tmp_path: Path) -> None:
    """Two simultaneous runs share the workers fairly: when the first run is done, the second run is mostly done."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    outs = [store_root / f"shared-{folder.name}" for folder in folders]
    with (
        started_run(fleet, demo_url, outs[0], folders[0]) as one,
        started_run(fleet, demo_url, outs[1], folders[1]) as other,
    ):
        runs = [one, other]
        processes.eventually(lambda: any(run.producer.process.poll() is not None for run in runs), "the end of one", 90)
        behind = min(run.manifests() for run in runs)
        assert behind >= _IMAGES // _SHARD // 2
        assert [run.producer.wait(60).code for run in runs] == [0, 0]
        for run in runs:
            run.assert_whole()


@pytest.mark.slow
def test_damaged_files_are_named_and_kept(running: Running) -> None:
    """If a manifest is truncated or run.json has changed, the error names the file, and nothing is overwritten."""
    assert running.producer.wait().code == 0
    record = running.out / "run.json"
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b'"window": 2', b'"window": 3'))
    for command in ("resume", "retry", "cancel"):
        ended = running.again(command)
        assert ended.code == 1
        assert str(record) in processes.error_parts(ended)[0]
    record.write_bytes(whole)
    manifest = running.out / "00001.parquet"
    body = manifest.read_bytes()
    manifest.write_bytes(body[:-100])
    for command in ("resume", "retry"):
        ended = running.again(command)
        assert ended.code == 1
        assert str(manifest) in processes.error_parts(ended)[0]
    assert manifest.read_bytes() == body[:-100]
    requested = running.requested
    manifest.unlink()
    running.again("resume", "--json").json()
    running.assert_whole()
    assert running.requested == requested
    assert {row["recovered"] for row in processes.rows(running.out)} == {True, False}


@pytest.mark.slow
def test_one_signal_ends_a_run_that_waits_for_its_list(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """While a run waits for standard input and its first shard is not full, Ctrl-C ends the run."""
    with started_run(fleet, demo_url, out, tmp_path, stdin=True) as run:
        pipe = run.producer.process.stdin
        assert pipe is not None
        pipe.write(lines(demo_url, 5).encode())
        pipe.flush()
        # At this moment, the run exists and waits for standard input.
        with processes.connect(fleet) as server:
            processes.eventually(lambda: list(server.scan_iter("imagefleet:run:*")), "the run")
            run.interrupt()
            ended = run.producer.wait()
        assert ended.code == 130
        assert f"Resume with: producer resume {out}" in ended.err
        assert run.requested == 0


@pytest.mark.slow
def test_one_signal_leaves_other_runs_alone(fleet: str, demo_url: str, store_root: Path, tmp_path: Path) -> None:
    """A run that ends early drops only its own tasks. Another run at the same workers completes at the same time."""
    folders = [tmp_path / name for name in ("ended", "other")]
    for folder in folders:
        folder.mkdir()
    outs = [store_root / f"drain-{folder.name}" for folder in folders]
    with (
        started_run(fleet, demo_url, outs[0], folders[0], "--window", "6") as ended,
        started_run(fleet, demo_url, outs[1], folders[1]) as other,
    ):
        processes.eventually(lambda: list(outs[0].glob("0*/*.png")), "an image")
        ended.interrupt()
        assert ended.producer.wait().code == 130
        assert len(processes.image_files(outs[0])) < _IMAGES
        assert other.producer.wait(90).code == 0
        other.assert_whole()
        ended.again("resume", "--json").json()
        ended.assert_whole()


@pytest.mark.slow
def test_one_signal_on_a_terminal(demo_url: str, tmp_path: Path) -> None:
    """Ctrl-C with a local fleet prints the number of downloads to finish, removes the bar, and ends the command.

    The command waits only for the images in the slots. Thousands of images are still queued, and `resume` downloads
    each of these images once.
    """
    source, out, slots = tmp_path / "list.txt", tmp_path / "out", 16
    source.write_text("".join(f"{demo_url}/images/{index}.png?latency=0.2\n" for index in range(3000)))
    size = ("--workers", "2", "--concurrency", str(slots // 2))
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "TERM": "xterm", "COLUMNS": "80"}
    before = processes.request_count(demo_url, "/images")
    with processes.terminal(processes.command(["run", source, "--out", out, *size]), env) as screen:
        processes.eventually(lambda: list(out.glob("0*/*.png")), "an image", 60)
        screen.type(b"\x03")
        assert screen.process.wait(60) == 130
    match = re.search(r"^Finishing (\d+) downloads? in progress\.", screen.text, re.MULTILINE)
    assert match is not None, screen.text
    assert 0 < int(match[1]) <= slots
    assert "Starting 2 workers" in screen.text
    assert re.search(r"^images .+\d% [\d,]+/3,000$", screen.text, re.MULTILINE), screen.text
    assert re.search(r"^now +[\d.]+ images/s", screen.text, re.MULTILINE), screen.text
    last = [line for line in screen.text.splitlines() if line.strip()][-2:]
    assert last[0].endswith("Interrupted. Saved images and manifests are kept.")
    assert last[1] == f"Resume with: producer resume {out}"
    # Before the last message, the cursor moves up over the rows of the progress and erases them.
    assert b"\x1b[1A\x1b[2K\x1b[1A\x1b[2KInterrupted." in bytes(screen.shown)
    assert processes.request_count(demo_url, "/images") - before == len(processes.image_files(out)) < 3000
    done = processes.producer("resume", out, *size, "--json", env=env, seconds=110).json()
    assert done["success"] == 3000
    assert processes.request_count(demo_url, "/images") - before == 3000


@pytest.mark.slow
def test_interrupted_comparison_ends_at_once(demo_url: str, tmp_path: Path) -> None:
    """Ctrl-C ends a comparison at once, even while its threads wait for servers. The command offers no resume."""
    source, out = tmp_path / "list.txt", tmp_path / "out"
    source.write_text(f"{demo_url}/images/1.png\n{demo_url}/images/2.png?latency=30\n" * 2)
    argv = processes.command(["compare", source, "--out", out, "--workers", "1", "--timeout", "50"])
    with processes.started("compare", argv, tmp_path, {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}) as compare:
        processes.eventually(lambda: list(out.glob("one-by-one/0*/*.png")), "an image", 60)
        os.kill(compare.process.pid, signal.SIGINT)
        ended = compare.wait(20)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    last = ended.err.splitlines()[-1]
    assert last == f"Interrupted. Saved images are kept in {out}. A comparison can't be resumed."
