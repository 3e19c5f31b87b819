"""`producer run --incremental` continues, replaces or extends the run in a folder, with real workers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration import processes

_SHARD = 3


def write_list(path: Path, demo_url: str, first: int, count: int, latency: float = 0.0) -> list[str]:
    """Write a list of images, and return its URLs."""
    urls = [f"{demo_url}/images/{first + number}.png?latency={latency}" for number in range(count)]
    path.write_bytes("".join(f"{url}\n" for url in urls).encode())
    return urls


def run(source: Path, out: Path, fleet: str, *options: str) -> processes.Completed:
    """Run a list to its end, in shards of three."""
    sizes = ["--shard-size", str(_SHARD)] if "extend" not in options else []
    return processes.producer("run", source, "--out", out, "--broker", fleet, "--json", *sizes, *options)


def urls_by_key(out: Path) -> dict[str, str]:
    """Return the URLs of a run's manifests by key, and check that each URL is a success with a file."""
    rows = processes.rows(out)
    assert {row["status"] for row in rows} == {"success"}
    assert processes.image_files(out) == {row["path"] for row in rows}
    return {row["key"]: row["url"] for row in rows}


def test_skip_continues_the_run_of_the_same_list(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """If the same command is repeated, it downloads only the missing images."""
    source = tmp_path / "list.txt"
    write_list(source, demo_url, 0, 5)
    assert run(source, out, fleet, "--incremental", "skip").json()["fetched"] == 5
    # Two images are missing in the manifests, but only one of them on the disk.
    (out / "00001.parquet").unlink()
    next((out / "00001").iterdir()).unlink()
    facts = run(source, out, fleet, "--incremental", "skip").json()
    assert (facts["total"], facts["success"], facts["fetched"]) == (5, 5, 1)
    # The other image of this shard was found on the disk.
    fetched = (row for row in processes.rows(out) if row["key"] >= "00001" and not row["recovered"])
    assert [facts["fetched_bytes"]] == [row["bytes"] for row in fetched]


def test_overwrite_replaces_an_unfinished_run(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """If a run's producer was killed, a new run replaces the old run.

    No image of the old run, not even an image in progress, gets into the new run. While the old run's producer is
    alive, the run is not replaced.
    """
    source = tmp_path / "list.txt"
    write_list(source, demo_url, 100, 300, latency=3.0)
    before = processes.request_count(demo_url, "/images")
    argv = processes.command(["run", source, "--out", out, "--broker", fleet, "--shard-size", str(_SHARD)])
    with processes.started("run", argv, tmp_path) as producer:
        processes.eventually(lambda: processes.request_count(demo_url, "/images") > before, "a request")
        refused = run(source, out, fleet, "--incremental", "overwrite")
        assert (refused.code, "producer" in refused.err) == (2, True)
        producer.process.kill()
        producer.process.wait()
    (out / "notes.txt").write_text("mine")
    urls = write_list(source, demo_url, 0, 5)
    assert run(source, out, fleet, "--incremental", "overwrite").json()["fetched"] == 5
    assert urls_by_key(out) == dict(zip(["000000", "000001", "000002", "000010", "000011"], urls, strict=True))
    assert not any(row["recovered"] for row in processes.rows(out))
    assert (out / "notes.txt").read_text() == "mine"


def test_extend_adds_shards(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """Another list adds shards. The keys, images and manifests of the first list stay.

    The counts leave out the gap between the two lists' keys.
    """
    urls = write_list(tmp_path / "list.txt", demo_url, 0, 5)
    more = write_list(tmp_path / "more.txt", demo_url, 10, 4)
    assert run(tmp_path / "list.txt", out, fleet).json()["total"] == 5
    before = {path: path.read_bytes() for path in out.rglob("*.p*") if path.is_file()}
    facts = run(tmp_path / "more.txt", out, fleet, "--incremental", "extend").json()
    assert (facts["total"], facts["success"], facts["fetched"], facts["shards"]) == (9, 9, 4, 4)
    # The speed in the status of the complete run is that of the last command.
    assert facts["fetched_bytes"] == sum(row["bytes"] for row in processes.rows(out) if row["key"] >= "00002")
    speed = processes.producer("status", out, "--json").json()["speed"]
    assert speed["average_bytes_per_second"] == facts["fetched_bytes"] / facts["wall_seconds"]
    keys = ["000000", "000001", "000002", "000010", "000011", "000020", "000021", "000022", "000030"]
    assert urls_by_key(out) == dict(zip(keys, [*urls, *more], strict=True))
    assert {path: path.read_bytes() for path in before} == before
    record = json.loads((out / "run.json").read_text())
    assert (record["state"], record["planned_rows"], record["planned_shards"]) == ("complete", 9, 4)
