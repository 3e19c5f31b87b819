from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import checks, planning, plots, processes, profiling, report
from benchmarks.checks import CheckError, Resized
from benchmarks.goals import Finding, findings
from benchmarks.messages import MessageCounter
from benchmarks.pictures import SMALL, Gallery, create_gallery
from benchmarks.workloads import BASE, FILES, HTTP_SMALL, IMAGEFLEET, OUTPUTS, RESIZE_MODES, WORKLOADS
from producer.sources import url_list
from producer.sources.options import SourceOptions
from tasks.celery import IMAGE_QUEUE, SHARD_QUEUE
from tasks.deadline import Deadline
from tasks.image_options import EncodeFormat, ResizeMode, ResizeOptions
from tasks.images.resize import resize_image
from tasks.outputs import parquet, webdataset
from tasks.outputs.samples import SampleImage
from tests.encoding import encoded

_COUNT = 4
_SMALLER = (100, 50)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Make a few images."""
    return create_gallery(SMALL, _COUNT, tmp_path_factory.mktemp("gallery") / "pictures")


def result(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return the stored result of a workload with these durations per turn, in seconds."""

    def row(seconds: list[float]) -> dict[str, Any]:
        count = {"number": 100, "most": 1}
        counts = {"requests": count, "messages": count, "deliveries": None}
        turns = [
            {"images": 100, "seconds": one, "cpu_ms": {"producer": 0.5, "redis": 0.1}, **counts} for one in seconds
        ]
        spread = {"median": 10.0, "least": 9.0, "most": 11.0}
        rates = {"images_per_second": spread, "of_command": spread, "peak_mib": spread}
        return {"images": 100, "cpu_ms_per_image": {"producer": 0.5, "redis": 0.1}, "turns": turns, **rates}

    return {
        "measured_on": "2026-01-02",
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 4, "system": "Linux 6", "redis": "8.1.0"},
        "versions": {BASE: "1.2.3"},
        "about": HTTP_SMALL.about,
        "images": 100,
        "bytes_per_image": 15_000,
        "repeat": len(ours),
        "sweeps": {BASE: {"2 x 16": 5.0, "2 x 32": 7.0}},
        "ways": {IMAGEFLEET: row(ours), BASE: row(theirs)},
    }


def test_ratio_compares_the_same_turn() -> None:
    """A slow moment of the machine affects both ways alike, so their ratio stays. Goals apply to the median ratio."""
    first = next(findings({HTTP_SMALL.name: result([1.0, 4.0, 1.0], [2.0, 8.0, 2.2])}))
    assert first.found == pytest.approx({"median": 2.0, "least": 2.0, "most": 2.2})
    assert (first.goal, first.text, first.verdict) == ("≥ 1.25 x", "2.00 x (2.00 to 2.20)", "reached")


def test_missed_goal_is_reported() -> None:
    """A missed goal is marked, even if a lower value is better for this goal."""
    found = {"median": 2.0, "least": 1.0, "most": 3.0}
    assert Finding("slow", found, 2.5, True, " x", 1).verdict == "**not reached**"
    assert Finding("dear", found, 1.5, False, " ms", 1).verdict == "**not reached**"
    assert Finding("cheap", found, 2.5, False, " ms", 1).verdict == "reached"


def test_page_without_results() -> None:
    """Without results, the page lists the goals as not measured."""
    page = report.page({})
    assert page.count("not measured") == len(list(findings({})))
    assert report.readme({}) == "Not measured yet.\n"
    assert plots.draw({}) == {}


def test_result_with_its_own_goals() -> None:
    """A result stored by another command shows its own goals."""
    own = {"about": "memory", "found": {"median": 1.05, "least": 1.0, "most": 1.1}, "bound": 1.1, "at_least": False}
    kept = {"machine": result([1], [1])["machine"], "goals": [{**own, "unit": " x", "digits": 2}]}
    assert "| memory | ≤ 1.1 x | 1.05 x (1.00 to 1.10) | reached |" in report.page({"scale": kept})


def test_page_of_a_workload() -> None:
    """The page names the versions and the chosen fleet size. The page says which figures were not counted."""
    kept = {HTTP_SMALL.name: result([1.0], [2.0])}
    page = report.page(kept)
    assert f"{BASE} 1.2.3 (2 x 32)" in page
    assert f"| {HTTP_SMALL.about} | 100 | 100 (1) | not counted | 100 (1) |" in page
    assert "redis-py 8.1.0" in page
    assert page.count("<picture>") == len(plots.draw(kept)) == 2
    assert report.readme(kept).count("<picture>") == 1


def test_page_of_the_resize_modes() -> None:
    """The page has one row for each measured mode, with the ratio and the CPU time of both programs."""
    about = "http, 160 KB, border"
    page = report.page({"resize-border": {**result([1.0], [2.0]), "about": about}})
    assert f"| {about} | 10 (9 to 11) | 10 (9 to 11) | 2.00 x (2.00 to 2.00) | 0.60 ms | 0.60 ms |" in page
    assert "resize-no" not in report.page({})


def test_goals_of_planning() -> None:
    """Rates are per second of CPU. The memory goal applies to the format that needs most memory."""
    ours = {"rows": 1000, "cpu_seconds": 0.01, "seconds": 1.0, "peak_mib": 100}
    failed = {"error": "failed after 1 s: no memory"}
    formats = {"csv": ours, "json": {**ours, "peak_mib": 300}, "parquet": failed}
    planned = {"formats": {name: {IMAGEFLEET: facts} for name, facts in formats.items()}}
    texts = {one.about: (one.text, one.verdict) for one in findings({"planning": planned})}
    assert texts["planning a list in CSV, one core"] == ("100,000 rows/s (100,000 to 100,000)", "reached")
    assert texts["planning a list in Parquet, one core"] == ("not measured", "-")
    memory = texts["planning 5 million rows of any format, peak memory"]
    assert memory == ("300 MiB (300 to 300)", "**not reached**")


def test_cost_of_packing() -> None:
    """The extra time of a packed output is computed for each turn, relative to files."""
    kept = {OUTPUTS.name: result([1.0, 2.0, 1.0], [1.05, 2.4, 1.08])}
    ways = kept[OUTPUTS.name]["ways"]
    kept[OUTPUTS.name]["ways"] = {FILES: ways[IMAGEFLEET], "webdataset": ways[BASE]}
    page = report.page(kept)
    assert "| tar shards instead of files: extra time | ≤ 10 % | 8.0 % (5.0 to 20.0) | reached |" in page
    assert "| Parquet instead of files: extra time | ≤ 10 % | not measured | - |" in page
    assert "| `webdataset` | 10 (9 to 11) | 8 % (5 to 20) | 0.60 ms | 10 MiB |" in page


def test_plots_are_reproducible() -> None:
    """A plot has no date and no random ids, and stores its labels as text."""
    kept = {HTTP_SMALL.name: result([1.0], [2.0])}
    first = plots.draw(kept)
    assert first == plots.draw(kept)
    assert all(BASE in svg for themes in first.values() for svg in themes.values())


def test_every_image_is_saved_unchanged(gallery: Gallery, tmp_path: Path) -> None:
    """Every image must exist once, unchanged. The file names do not matter."""
    for number in range(_COUNT):
        (tmp_path / f"a{number}.jpg").write_bytes((gallery.folder / f"{number}.jpg").read_bytes())
    checks.check_unchanged(tmp_path, gallery, _COUNT)
    (tmp_path / "a1.jpg").write_bytes((tmp_path / "a2.jpg").read_bytes())
    with pytest.raises(CheckError, match="1 of 4 images are missing, 1 are unexpected"):
        checks.check_unchanged(tmp_path, gallery, _COUNT)


def test_packed_images_are_checked(gallery: Gallery, tmp_path: Path) -> None:
    """Images in a tar and in a Parquet file count like files."""
    bodies = [(gallery.folder / f"{number}.jpg").read_bytes() for number in range(_COUNT)]
    rows = pa.table({"key": ["00", "01"]})
    images = [SampleImage(f"0{place}", "jpg", body) for place, body in enumerate(bodies)]
    (tmp_path / "00000.tar").write_bytes(b"".join(webdataset.encode(rows, images[:2])))
    (tmp_path / "00001").mkdir()
    (tmp_path / "00001" / "images.parquet").write_bytes(b"".join(parquet.encode(rows, images[2:])))
    checks.check_output(tmp_path, gallery, _COUNT)
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(CheckError, match="2 of 4 images are missing, 0 are unexpected"):
        checks.check_output(tmp_path, gallery, _COUNT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda body, other: body[:-200], "truncated"),
        (lambda body, other: other, "shows something else"),
        (lambda body, other: shrunk(body, (99, 50)), r"a JPEG of \(99, 50\)"),
    ],
    ids=["truncated", "another image", "wrong size"],
)
def test_resized_images_are_checked(gallery: Gallery, tmp_path: Path, changed: Any, message: str) -> None:
    """Every image must decode, have the right size, and show the right content."""
    (tmp_path / "00000").mkdir()
    bodies = [shrunk(gallery.original(number), _SMALLER) for number in range(_COUNT)]
    for number, body in enumerate(bodies):
        (tmp_path / "00000" / f"0000{number}.jpg").write_bytes(body)
    rows = [{"url": f"http://a.example/{number}.jpg", "key": f"0000{number}"} for number in range(_COUNT)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    check = Resized(*_SMALLER)
    check(tmp_path, gallery, _COUNT)
    (tmp_path / "00000" / "00001.jpg").write_bytes(changed(bodies[1], bodies[2]))
    with pytest.raises(CheckError, match=message):
        check(tmp_path, gallery, _COUNT)


@pytest.mark.parametrize("mode", [one.mode for one in RESIZE_MODES])
def test_resize_modes_are_checked(gallery: Gallery, tmp_path: Path, mode: ResizeMode) -> None:
    """The check of each mode accepts the images of this mode, and rejects the images of another mode."""
    workload = next(one for one in RESIZE_MODES if one.mode is mode)
    originals = tuple(encoded(Image.open(io.BytesIO(body)).resize((1024, 768)), "JPEG") for body in gallery.originals)
    large = replace(gallery, originals=originals)
    other = ResizeMode.BORDER if mode is ResizeMode.CENTER_CROP else ResizeMode.CENTER_CROP
    save_resized(tmp_path / "right", originals, mode)
    workload.check(tmp_path / "right", large, len(originals))
    save_resized(tmp_path / "wrong", originals, other)
    with pytest.raises(CheckError, match="images are wrong"):
        workload.check(tmp_path / "wrong", large, len(originals))


def save_resized(out: Path, originals: tuple[bytes, ...], mode: ResizeMode) -> None:
    """Save resized images and their table into a new folder, as a run does."""
    (out / "00000").mkdir(parents=True)
    for number, body in enumerate(originals):
        resized = resize_image(body, ResizeOptions(mode, 256, encode_format=EncodeFormat.JPG), 10**6, Deadline(60, 60))
        (out / "00000" / f"0000{number}.jpg").write_bytes(resized.body)
    rows = [{"url": f"http://a.example/{number}.jpg", "key": f"0000{number}"} for number in range(len(originals))]
    pq.write_table(pa.Table.from_pylist(rows), out / "00000.parquet")


def shrunk(jpeg: bytes, size: tuple[int, int]) -> bytes:
    """Return the image in another size."""
    saved = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).resize(size).save(saved, "jpeg", quality=95)
    return saved.getvalue()


def test_all_cpu_time_is_counted() -> None:
    """The total includes the CPU time of processes that end before they are sampled."""
    work = "import time; ends = time.process_time() + 0.3\nwhile time.process_time() < ends: pass"
    measured = processes.measure([sys.executable, "-c", work], {})
    assert 0.3 <= sum(measured.cpu.values()) < measured.seconds + 0.1
    short = processes.measure([sys.executable, "-c", "pass"], {})
    assert short.cpu[processes.UNSEEN] > 0


def test_failed_command_is_an_error() -> None:
    """A failed command is no measurement. The error quotes the end of the command's output."""
    with pytest.raises(RuntimeError, match="failed with 3:\nso it is"):
        processes.measure([sys.executable, "-c", "import sys; sys.stderr.write('so it is'); sys.exit(3)"], {})


class Server:
    """Stand in for a Redis server's process. The stand-in has only the part that a message counter uses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def cwd(self) -> str:
        """Return the folder with the files of the server."""
        return str(self._folder)


def test_messages_are_counted_after_the_run(tmp_path: Path) -> None:
    """An image's messages and deliveries are counted from the append-only files, including deleted files."""
    server: Any = Server(tmp_path)
    (tmp_path / "appendonlydir").mkdir()

    def write(name: str, *commands: list[str]) -> None:
        with (tmp_path / "appendonlydir" / name).open("ab") as file:
            for command in commands:
                file.write(f"*{len(command)}\r\n".encode())
                file.writelines(f"${len(word.encode())}\r\n{word}\r\n".encode() for word in command)

    with MessageCounter() as counter:
        counter.inspect(processes.WORKERS, server)
        write("a.1.incr.aof", ["SELECT", "0"], ["LPUSH", IMAGE_QUEUE, message("x"), message("y")])
        counter.inspect(processes.REDIS, server)
        write(
            "a.1.incr.aof",
            ["MULTI"],
            ["HSET", "unacked:a", "tag", json.dumps([json.loads(message("x")), "", IMAGE_QUEUE])],
        )
        write("a.2.incr.aof", ["LPUSH", SHARD_QUEUE, message("z")], ["RPUSH", IMAGE_QUEUE, message("x")])
        counter.inspect(processes.REDIS, server)
        shutil.rmtree(tmp_path / "appendonlydir")
        sent, delivered = counter.count()
    assert counter.has_files
    assert (sent, delivered) == ({"x": 2, "y": 1}, {"x": 1})


def message(task: str) -> str:
    """Return a task's message that contains only the task's id."""
    return json.dumps({"headers": {"id": task}})


def test_list_lengths_scale_together() -> None:
    """If a way has a list length of its own, that length is scaled by the same factor."""
    workload = next(workload for workload in WORKLOADS if workload.lists)
    half = workload.scaled(workload.images // 2)
    assert (half.length(IMAGEFLEET), half.length(BASE)) == (workload.images // 2, workload.length(BASE) // 2)


def test_plain_celery_imports_no_imagefleet_code() -> None:
    """Plain Celery is measured with Celery's own transport."""
    ask = "import sys, benchmarks.plain_celery, benchmarks.tutorial; print('tasks' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout == "False\n"


def test_profile_counts_each_sample_once() -> None:
    """A sample counts for its innermost known frame.

    Unknown frames inside a known frame count for the known frame. Waiting does not count.
    """
    task = ["Worker.run (celery/concurrency/thread.py:1)", "trace_task (celery/app/trace.py:2)"]
    samples = [
        ([*task, "fetch (tasks/fetch.py:3)", "Store.create (tasks/storage/store.py:4)", "makedirs (<frozen os>:5)"], 3),
        ([*task, "digest (tasks/images/identify.py:6)"], 2),
        ([*task, "DeadlineSocket.recv_into (tasks/download/sockets.py:7)"], 2),
        ([*task, "Response.begin (tasks/download/connection.py:8)", "get (urllib3/_collections.py:9)"], 1),
        (task, 1),
        (["main (somewhere.py:1)"], 1),
        (["run (threading.py:10)", "_worker (concurrent/futures/thread.py:11)"], 90),
    ]
    assert profiling.shares(samples) == {
        "saving": 0.3,
        "SHA-256": 0.2,
        "sending and receiving": 0.2,
        "HTTP (requests, urllib3, http.client)": 0.1,
        "Celery: running a task": 0.1,
        "the rest": 0.1,
    }


@pytest.mark.parametrize("name", planning.FORMATS)
def test_planning_lists_can_be_read(tmp_path: Path, name: str) -> None:
    """Each list of the planning benchmark has all of its rows. A process plans the list."""
    path = tmp_path / f"list.{name}"
    planning.write(path, 10)
    requests = list(url_list.read(str(path), SourceOptions(caption_col=None if name == "txt" else "caption")))
    assert len(requests) == 10
    assert all(request.url.endswith(f"/{request.index}.jpg") for request in requests)
