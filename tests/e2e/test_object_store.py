"""Whole runs to an S3 endpoint lose nothing, even if processes die or requests fail during the run."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from config.locations import StoreUrl
from producer.local_fleet.demo_process import DemoProcess
from tasks.storage import manifest
from tasks.storage.object_store import ObjectStore
from tests.e2e.endpoint import BUCKET, FaultyEndpoint, moto_server
from tests.integration import processes
from tests.integration.processes import Background, Completed

pytestmark = pytest.mark.timeout(300)
_COUNT, _SHARD = 150, "50"


@dataclass
class Site:
    """An endpoint, a demo server, and the output folder of one test."""

    endpoint: FaultyEndpoint
    demo: DemoProcess
    folder: Path
    out: str

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of each process."""
        return {**self.endpoint.environment, "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}

    @property
    def store(self) -> ObjectStore:
        """The store of the run."""
        return ObjectStore(StoreUrl.parse(self.out))

    def write_list(self, count: int = _COUNT, latency: float = 0.0, *more: str) -> str:
        """Write a URL list and return its path."""
        urls = [f"{self.demo.url}/images/{number}.jpg?latency={latency}" for number in range(count)]
        path = self.folder / "list.txt"
        path.write_text("\n".join([*urls, *(f"{self.demo.url}{route}" for route in more)]))
        return str(path)

    def run(self, source: str, *options: str) -> Completed:
        """Run a list to its end."""
        arguments = ["run", source, "--out", self.out, "--shard-size", _SHARD, "--json", *options]
        return processes.producer(*arguments, env=self.env, seconds=120)

    def start(self, source: str, *options: str) -> Any:
        """Start a run in the background."""
        argv = processes.command(["run", source, "--out", self.out, "--shard-size", _SHARD, "--json", *options])
        return processes.started("run", argv, self.folder, self.env)

    def resume(self) -> Completed:
        """Resume the run to its end."""
        return processes.producer("resume", self.out, "--json", env=self.env, seconds=120)

    def wait_for_writes(self, count: int, run: Background) -> None:
        """Wait until the endpoint has written this many objects."""

        def written() -> bool:
            assert run.process.poll() is None, run.err
            return self.endpoint.writes >= count

        processes.eventually(written, "some images", 60)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of all manifests."""
        names = sorted(name for name in self.store.list_entries() if name.endswith(".parquet"))
        return [row for name in names for row in manifest.decode(self.store.read(name)).to_pylist()]

    def check_complete(self, count: int = _COUNT) -> None:
        """Check that each URL has one row, and that the saved images are exactly the images in the rows."""
        rows = self.rows()
        listed = (self.folder / "list.txt").read_text().splitlines()
        assert [row["url"] for row in rows] == listed
        saved = [row for row in rows if row["status"] == "success"]
        assert len(saved) == count, [row["error_message"] for row in rows if row["status"] != "success"]
        store = self.store
        for row in saved:
            assert hashlib.sha256(store.read(row["path"])).hexdigest() == row["sha256"]
        folders = {row["path"].partition("/")[0] for row in saved}
        assert {name for folder in folders for name in store.list_files(folder)} == {row["path"] for row in saved}


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run moto's server."""
    with moto_server(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture
def site(
    moto: int, demo: DemoProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """Return an endpoint without a fault, and an empty prefix at this endpoint."""
    with FaultyEndpoint(moto) as endpoint:
        for name, value in endpoint.environment.items():
            monkeypatch.setenv(name, value)
        prefix = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
        yield Site(endpoint, demo, tmp_path, f"s3://{BUCKET}/runs/{prefix}")


def test_run_with_its_images_as_files(site: Site) -> None:
    """A run stores the same files as in a folder. Afterwards, each command reports that the run is complete."""
    ended = site.run(site.write_list()).json()
    assert (ended["success"], ended["out"]) == (_COUNT, site.out)
    site.check_complete()
    entries = site.store.list_entries()
    assert entries == [
        *(".lock", ".plan", "00000", "00000.parquet", "00000_stats.json", "00001", "00001.parquet", "00001_stats.json"),
        *("00002", "00002.parquet", "00002_stats.json", "failures.jsonl", "run.json"),
    ]
    assert site.resume().json()["success"] == _COUNT
    assert site.run(site.write_list()).code == 2
    doctor = processes.producer("doctor", "--out", site.out, "--json", env=site.env)
    assert doctor.json()["healthy"]
    assert processes.producer("cancel", site.out, env=site.env).err.startswith("The run is complete.")
    secret = site.endpoint.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret not in site.store.read("run.json")


def test_list_in_the_store(site: Site) -> None:
    """A compressed list is read from a bucket. Afterwards, a damaged plan is rebuilt from this list."""
    name = f"{Path(site.out).name}.txt.gz"
    listed = gzip.compress(Path(site.write_list()).read_bytes())
    ObjectStore(StoreUrl.parse(f"s3://{BUCKET}/lists")).replace(name, listed)
    source = f"s3://{BUCKET}/lists/{name}"
    ended = site.run(source).json()
    assert (ended["success"], ended["source"]) == (_COUNT, source)
    site.check_complete()
    site.store.replace(".plan/00001.parquet", b"damaged")
    site.store.remove("00001.parquet")
    assert site.resume().json()["success"] == _COUNT
    site.check_complete()
    missing = site.run(f"s3://{BUCKET}/lists/missing.txt")
    assert missing.code == 2
    assert "the object or its bucket does not exist" in missing.err


@pytest.mark.parametrize("output", ["webdataset", "parquet"])
def test_run_with_packed_images(site: Site, output: str) -> None:
    """The tars and Parquet files have all images, and the separate image files are removed."""
    assert site.run(site.write_list(), "--output-format", output).json()["success"] == _COUNT
    rows = site.rows()
    assert len(rows) == _COUNT
    bodies: list[bytes] = []
    for name in sorted({row["path"] for row in rows}):
        body = site.store.read(name)
        if output == "parquet":
            bodies += [bytes(image or b"") for image in pq.read_table(io.BytesIO(body))["image"].to_pylist()]
        else:
            with tarfile.open(fileobj=io.BytesIO(body)) as tar:
                members = [member for member in tar if member.name.endswith(".jpg")]
                bodies += [reader.read() for member in members if (reader := tar.extractfile(member)) is not None]
    assert [hashlib.sha256(body).hexdigest() for body in bodies] == [row["sha256"] for row in rows]
    left = {name for shard in ("00000", "00001", "00002") for name in site.store.list_files(shard)}
    assert left == {row["path"] for row in rows if "/" in row["path"]}
    assert processes.producer("doctor", "--out", site.out, "--json", env=site.env).json()["healthy"]


def test_retry_and_refresh(site: Site) -> None:
    """Failed images are retried, and a later run reuses the unchanged images of an earlier run."""
    files = site.folder / "files"
    files.mkdir()
    for number in range(20):
        (files / f"{number}.jpg").write_bytes(_image(number))
    (site.folder / "server").mkdir()
    with processes.file_server(site.folder / "server", files) as port:
        urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(21)]
        source = site.folder / "list.txt"
        source.write_text("\n".join(urls))
        assert site.run(str(source)).json()["success"] == 20
        (files / "20.jpg").write_bytes(_image(20))
        retried = processes.producer("retry", site.out, "--all", "--json", env=site.env).json()
        assert (retried["success"], retried["retried"]) == (21, {"http_4xx": 1})
        site.check_complete(21)
        old, site.out = site.out, f"{site.out}-new"
        assert site.run(str(source), "--refresh-from", old).json()["unchanged"] == 21
        site.check_complete(21)


def test_killed_workers(site: Site) -> None:
    """If workers are killed in the middle of a run, their images are fetched again, and each image is saved once."""
    with site.start(site.write_list(latency=0.1), "--workers", "2", "--concurrency", "8") as run:
        for writes in (40, 90):
            site.wait_for_writes(writes, run)
            workers = [process for process in run.descendants() if "worker" in process.cmdline()]
            os.kill(workers[0].pid, signal.SIGKILL)
        assert run.wait(120).json()["success"] == _COUNT
    site.check_complete()


def test_killed_producer(site: Site) -> None:
    """If the producer is killed in the middle of a run, `resume` takes over the lock at once and completes the run."""
    with site.start(site.write_list(latency=0.1), "--workers", "2", "--concurrency", "4") as run:
        site.wait_for_writes(60, run)
        fleet = run.descendants()
        run.process.kill()
        run.process.wait()
        psutil.wait_procs(fleet, 30)
    doctor = processes.producer("doctor", "--out", site.out, "--json", env=site.env).json()
    assert any("is dead" in finding["found"] for finding in doctor["findings"])
    assert site.resume().json()["success"] == _COUNT
    site.check_complete()


def test_paused_producer_is_replaced(site: Site) -> None:
    """If a producer is paused until its lock has expired, `resume` completes the run, and the paused producer ends."""
    with site.start(site.write_list(latency=0.3), "--workers", "1", "--concurrency", "4") as run:
        site.wait_for_writes(40, run)
        run.process.send_signal(signal.SIGSTOP)
        try:
            assert site.resume().json()["success"] == _COUNT
            record = site.store.read("run.json")
        finally:
            run.process.send_signal(signal.SIGCONT)
        ended = run.wait(60)
        assert ended.code == 1
        assert "Another producer has taken over the run" in ended.out
    assert site.store.read("run.json") == record
    site.check_complete()


def test_second_producer_is_refused(site: Site) -> None:
    """While a producer works, another command is refused. After `cancel` has ended the run, the run can be resumed."""
    with site.start(site.write_list(latency=0.3), "--workers", "1", "--concurrency", "4") as run:
        site.wait_for_writes(20, run)
        second = site.resume()
        assert second.code == 2
        assert "Another producer works on" in second.out
        assert processes.producer("cancel", site.out, env=site.env).code == 0
        assert run.wait(60).code == 130
    assert site.resume().json()["success"] == _COUNT
    site.check_complete()


@pytest.mark.parametrize("fault", [503, 0.3, "lost"], ids=["503", "slow", "lost responses"])
def test_endpoint_with_passing_faults(site: Site, fault: int | float | str) -> None:
    """If the store is overloaded, is slow or loses responses for a while, the run is only delayed."""
    with site.start(site.write_list(latency=0.1), "--workers", "2", "--concurrency", "8") as run:
        site.wait_for_writes(40, run)
        number = iter(range(1_000_000))
        # Of the next 60 requests, every second request fails.
        site.endpoint.fault = lambda _: fault if (now := next(number)) < 60 and now % 2 else None
        ended = run.wait(120)
    assert ended.json()["success"] == _COUNT, ended.err
    site.check_complete()


@pytest.mark.parametrize("status", [503, 403])
def test_endpoint_fails_for_good(site: Site, status: int) -> None:
    """If the store fails for good, the command reports why. Once the store works again, `resume` completes the run."""
    with site.start(site.write_list(latency=0.1), "--workers", "2", "--concurrency", "8") as run:
        site.wait_for_writes(60, run)
        site.endpoint.fault = lambda _: status
        ended = run.wait(180)
    assert ended.code in (1, 2)
    assert str(status) in ended.out
    assert "AWS" not in ended.out + ended.err
    site.endpoint.fault = lambda _: None
    resumed = site.resume().json()
    assert resumed["success"] == _COUNT, site.rows()
    site.check_complete()


def test_workers_at_a_broker(site: Site) -> None:
    """Workers need no shared folder, only a root that is a URL. A worker without this root takes no part in the run."""
    with ExitStack() as stack:
        port = stack.enter_context(processes.redis_server(site.folder))
        url = f"redis://127.0.0.1:{port}/0"
        for name, root in (("fit", f"s3://{BUCKET}/runs"), ("unfit", f"/tmp,s3://{BUCKET}/other")):
            stack.enter_context(
                processes.worker(
                    name, site.folder, url, root, "127.0.0.1", "-P", "threads", "-c", "8", "-n", f"{name}@test"
                )
            )
        processes.eventually(lambda: len(processes.worker_stats(url)) == 2, "both workers", 60)
        ended = site.run(site.write_list(), "--broker", url)
        assert ended.json()["success"] == _COUNT
        assert "some workers can't save images of this run" in ended.err
        assert f"this worker may not write to {site.out}" in " ".join(ended.err.split())
    site.check_complete()


def _image(number: int) -> bytes:
    from PIL import Image

    body = io.BytesIO()
    Image.new("RGB", (60 + number, 40), (number, 90, 90)).save(body, "JPEG")
    return body.getvalue()
