"""A run of 2,500 images is checked byte for byte.

One run uses a broker and plain Celery workers, and the other run uses a local fleet.
"""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks import celery
from tasks.celery import COLLECT_SHARD, FETCH_IMAGE
from tests.integration import processes
from tests.unit.config.test_streams import ASCII

COUNT = 2_500
SHARDS = {"00000": 1_000, "00001": 1_000, "00002": 500}
KINDS = {"jpg": "jpeg", "png": "png", "gif": "gif", "webp": "webp"}
COLUMNS = [
    "url",
    "key",
    "status",
    "reason",
    "error_message",
    "path",
    "width",
    "height",
    "original_width",
    "original_height",
    "format",
    "bytes",
    "sha256",
    "exif",
    "phash",
    "http_status",
    "final_url",
    "etag",
    "last_modified",
    "attempts",
    "fetch_seconds",
    "finished_at",
    "worker",
    "recovered",
    "tls_unverified",
    "queued_seconds",
    "connect_seconds",
    "first_byte_seconds",
    "body_seconds",
    "verify_seconds",
    "save_seconds",
]
FACTS = {
    "run_id",
    "source",
    "out",
    "total",
    "success",
    "unchanged",
    "failed",
    "reasons",
    "bytes",
    "wall_seconds",
    "images_per_second",
    "shards",
    "workers",
    "concurrency",
    "startup_seconds",
    "fetched",
    "fetched_bytes",
    "repaired",
    "unfit_workers",
    "hosts",
}


@dataclass(frozen=True)
class Site:
    """A file server and its images: the file names in the order of the list, each with the file's bytes."""

    port: int
    folder: Path
    originals: dict[str, bytes]
    source: Path

    def requested(self) -> list[str]:
        """Return the images requested so far. If an image was requested twice, it is listed twice."""
        return [line.removeprefix("/") for line in (self.folder / "hits.log").read_text().splitlines()]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run. ``executed`` has the number of started tasks by name, or None if workers can't be asked."""

    site: Site
    executed: dict[str, int] | None
    out: Path
    ended: processes.Completed
    fetched: list[str]
    rows: list[dict[str, Any]]


def image_size(number: int) -> tuple[int, int]:
    """Return the size of an image. Every image has a different size, so all images differ."""
    return 8 + number % 50, 8 + number // 50


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve 2,500 different images in four formats."""
    files, folder = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("server")
    originals = {}
    for number in range(COUNT):
        extension = list(KINDS)[number % 4]
        path = files / f"{number:04d}.{extension}"
        Image.new("RGB", image_size(number), (number % 256, number // 10, 90)).save(path, KINDS[extension])
        originals[path.name] = path.read_bytes()
    assert len(set(originals.values())) == COUNT
    with processes.file_server(folder, files) as port:
        source = folder / "list.txt"
        source.write_text("".join(f"http://127.0.0.1:{port}/{name}\n" for name in originals))
        yield Site(port, folder, originals, source)
    processes.remove(files)


@pytest.fixture(scope="module", params=["broker", "local fleet"])
def ran(
    request: pytest.FixtureRequest, site: Site, store_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinishedRun:
    """Run the list once with a broker and once with a local fleet. The tests below check the results."""
    requests_before = len(site.requested())
    executed = None
    # With this limit, each slot gets a permit at once. So no task is parked, and each task runs once.
    options = ("--json", "--per-host-concurrency", "64")
    if request.param == "broker":
        out = store_root / "of-2500"
        url = request.getfixturevalue("fleet")
        before_run = executions(url)
        ended = processes.producer("run", site.source, "--out", out, "--broker", url, *options)
        executed = {name: count - before_run.get(name, 0) for name, count in executions(url).items()}
    else:
        out = tmp_path_factory.mktemp("local") / "out"
        env = {"IMAGEFLEET_ALLOW_NETWORKS": f"127.0.0.1:{site.port}"}
        ended = processes.producer("run", site.source, "--out", out, *options, env=env)
    return FinishedRun(site, executed, out, ended, site.requested()[requests_before:], processes.rows(out))


def executions(url: str) -> dict[str, int]:
    """Return how often the workers at a broker have started each task. The workers themselves count this."""
    stats = processes.worker_stats(url)
    assert len(stats) == 2
    totals: dict[str, int] = {}
    for worker in stats.values():
        for name, count in worker["total"].items():
            totals[name] = totals.get(name, 0) + count
    return totals


def test_every_image_is_fetched_exactly_once(ran: FinishedRun) -> None:
    """For 2,500 images, the server counts 2,500 requests. Workers count 3 collect tasks and no image task too many."""
    assert ran.ended.code == 0, ran.ended.err
    if ran.executed is not None:
        assert ran.executed.keys() == {FETCH_IMAGE, COLLECT_SHARD}
        assert ran.executed[COLLECT_SHARD] == len(SHARDS)
        # Celery's counter has no lock, so it can miss some of the tasks that start at the same moment, and more on a
        # busy machine. The next assertion is exact.
        assert 0.9 * COUNT <= ran.executed[FETCH_IMAGE] <= COUNT
    assert sorted(ran.fetched) == sorted(ran.site.originals)


def test_saved_files_equal_their_originals(ran: FinishedRun) -> None:
    """Every image is saved byte for byte under the path in its row, and nothing else is saved."""
    for row, (name, body) in zip(ran.rows, ran.site.originals.items(), strict=True):
        assert row["url"].endswith(f"/{name}")
        assert (ran.out / row["path"]).read_bytes() == body
    assert processes.image_files(ran.out) == {row["path"] for row in ran.rows}


def test_manifests_hold_a_row_for_each_url_in_order(ran: FinishedRun) -> None:
    """Three manifests hold the rows in the order of the list. The rows have the promised columns."""
    assert sorted(path.stem for path in ran.out.glob("*.parquet")) == list(SHARDS)
    assert [row["url"] for row in ran.rows] == ran.site.source.read_text().split()
    assert all(list(row) == COLUMNS for row in ran.rows)
    assert [row["key"] for row in ran.rows] == [
        f"{shard}{place:03d}" for shard, count in SHARDS.items() for place in range(count)
    ]


def test_rows_describe_the_files(ran: FinishedRun) -> None:
    """Each row describes the image of its own URL: format, size, bytes, digest and download."""
    for number, (row, (name, body)) in enumerate(zip(ran.rows, ran.site.originals.items(), strict=True)):
        extension = name.partition(".")[2]
        shard = row["key"][:5]
        size = image_size(number)
        assert (row["status"], row["reason"], row["error_message"]) == ("success", None, None)
        assert row["path"] == f"{shard}/{row['key']}.{extension}"
        assert (row["width"], row["height"]) == (row["original_width"], row["original_height"]) == size
        assert (row["format"], row["bytes"]) == (KINDS[extension], len(body))
        assert row["sha256"] == hashlib.sha256(body).hexdigest()
        assert (row["http_status"], row["final_url"], row["attempts"], row["recovered"]) == (200, None, 1, False)
        assert row["etag"]
        assert row["last_modified"]
        assert row["worker"]
        assert 0 < row["fetch_seconds"] < 60


def test_each_shard_has_its_stats(ran: FinishedRun) -> None:
    """Each manifest has a stats file with the counts, times and statuses that users of img2dataset expect."""
    for shard, count in SHARDS.items():
        stats = json.loads((ran.out / f"{shard}_stats.json").read_text())
        assert stats.pop("start_time") + stats.pop("duration") == pytest.approx(stats.pop("end_time"))
        assert stats == {
            "count": count,
            "successes": count,
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "status_dict": {"success": count},
        }


def test_json_is_the_only_output(ran: FinishedRun) -> None:
    """``--json`` prints one object with exactly the promised keys and the run's numbers."""
    facts = ran.ended.json()
    assert ran.ended.out.count("\n") == 1
    assert set(facts) == FACTS | {"report"}
    size = sum(map(len, ran.site.originals.values()))
    assert (facts["source"], facts["out"]) == (str(ran.site.source), str(ran.out))
    assert (facts["total"], facts["success"], facts["failed"], facts["reasons"]) == (COUNT, COUNT, 0, {})
    assert (facts["bytes"], facts["shards"]) == (size, len(SHARDS))
    assert facts["concurrency"] == facts["workers"] * 16
    assert facts["images_per_second"] == pytest.approx(COUNT / facts["wall_seconds"], rel=0.01)


def test_run_json_is_complete(ran: FinishedRun) -> None:
    """run.json has the state "complete", the planned numbers, and the same totals as the command's output."""
    record = json.loads((ran.out / "run.json").read_text())
    facts = ran.ended.json()
    assert (record["state"], record["plan"]) == ("complete", "complete")
    assert (record["planned_rows"], record["planned_shards"]) == (COUNT, len(SHARDS))
    assert (record["id"], record["source"], record["out"]) == (facts["run_id"], facts["source"], facts["out"])
    assert record["totals"] == {name: facts[name] for name in FACTS - {"run_id", "source", "out"}}
    assert record["started_at"] < record["finished_at"]


def test_files_with_urls_are_private(ran: FinishedRun) -> None:
    """The plan, the manifests, the stats and run.json may hold secrets, so only the owner can read these files."""
    names = processes.files_below(ran.out) - processes.image_files(ran.out)
    assert len(names) == 3 * len(SHARDS) + len({"run.json", "failures.jsonl", ".lock"})
    assert {stat.S_IMODE((ran.out / name).stat().st_mode) for name in names} == {0o600}


def test_report_without_json(fleet: str, demo_url: str, out: Path) -> None:
    """Without ``--json``, the report is on standard output and has the Total Execution Time."""
    urls = f"{demo_url}/images/1.jpg\n{demo_url}/fault/not-found\n"
    ended = processes.producer("run", "-", "--out", out, "--broker", fleet, stdin=urls.encode())
    assert ended.code == 0, ended.err
    lines = {" ".join(line.split()) for line in ended.out.splitlines()}
    assert any(line.startswith("Total Execution Time") and line.endswith(" seconds") for line in lines)
    assert {"success 1", "failed_to_download 1", "http_4xx 1"} <= lines


def test_slow_pipe_is_read_lazily(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """The first shard of a piped list is done while the pipe is still open. The list's last line needs no line end."""
    argv = processes.command(["run", "-", "--out", out, "--broker", fleet, "--shard-size", "2", "--json"])
    with processes.started("run", argv, tmp_path, stdin=subprocess.PIPE) as run:
        assert run.process.stdin is not None
        run.process.stdin.write(f"{demo_url}/images/0.jpg\n# none\n\n{demo_url}/images/1.png\n".encode())
        run.process.stdin.flush()
        processes.eventually((out / "00000.parquet").exists, "the first shard's manifest")
        assert run.process.poll() is None
        assert json.loads((out / "run.json").read_text())["plan"] == "open"
        run.process.stdin.write(f"{demo_url}/images/2.gif".encode())
        run.process.stdin.close()
        facts = run.wait().json()
    assert (facts["source"], facts["success"], facts["shards"]) == ("-", 3, 2)
    assert [row["format"] for row in processes.rows(out)] == ["jpeg", "png", "gif"]


def test_progress_grows_with_each_image(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """The progress sums in Redis grow while a shard's slowest image is still missing.

    The sums are removed at the end of the run.
    """
    urls = [f"{demo_url}/images/{number}.jpg" for number in range(3)]
    source = tmp_path / "list.txt"
    source.write_text("\n".join([*urls, f"{demo_url}/images/3.jpg?latency=4"]))
    argv = processes.command(["run", source, "--out", out, "--broker", fleet, "--json"])
    with processes.started("run", argv, tmp_path) as run, processes.connect(fleet) as server:
        processes.eventually((out / "run.json").exists, "run.json")
        key = f"imagefleet:progress:{json.loads((out / 'run.json').read_text())['id']}"
        moved = processes.eventually(lambda: server.hget(key, "success"), "progress")
        assert not (out / "00000.parquet").exists()
        assert 1 <= int(str(moved)) <= 3
        assert run.wait().json()["success"] == 4


def test_redis_keeps_nothing_of_a_run(fleet: str, demo_url: str, out: Path) -> None:
    """After a run, none of our keys exists or is created again, Celery's keys expire, and no task is queued."""
    source = f"{demo_url}/images/1.jpg".encode()
    first = processes.producer("run", "-", "--out", out, "--broker", fleet, "--json", stdin=source).json()
    # By the end of another run, the workers have sent all their reports about the first run.
    second = processes.producer("run", "-", "--out", f"{out}-again", "--broker", fleet, "--json", stdin=source).json()
    assert second["success"] == 1
    with processes.connect(fleet) as server:
        remaining = [str(key) for key in server.scan_iter(f"*{first['run_id']}*")]
        # Celery remembers for a day that a chord was done, so that a late copy of a chord part can't start the chord
        # again.
        assert all(int(str(server.ttl(key))) > 0 for key in remaining)
        assert [key for key in remaining if key.startswith("imagefleet:")] == []
        assert [server.llen(queue) for queue in (celery.IMAGE_QUEUE, celery.SHARD_QUEUE)] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("env", ASCII.values(), ids=ASCII)
def test_run_where_text_is_ascii(demo_url: str, tmp_path: Path, env: dict[str, str]) -> None:
    """Where Python assumes ASCII, a run with a local fleet still handles non-ASCII files, URLs and logs."""
    source, out = tmp_path / "list.txt", tmp_path / "größe-画像"
    urls = [f"{demo_url}/images/1.jpg?é".encode(), f"{demo_url}/images/2.jpg?\u753b".encode()]
    source.write_bytes(b"\n".join([*urls, f"{demo_url}/images/3.jpg?".encode() + b"caf\xe9", b"http://\xff/4.jpg"]))
    ended = processes.producer(
        *("run", source, "--out", out, "--workers", "1"), env={**env, "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    )
    assert ended.code == 0, ended.err
    assert [row["status"] for row in processes.rows(out)] == ["success"] * 2 + ["failed_to_download"] * 2
    assert processes.producer("resume", out, env=env).code == 0
