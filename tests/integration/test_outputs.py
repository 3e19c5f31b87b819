"""Real workers complete, retry and resume runs with packed output."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from tests.integration import processes
from tests.integration.test_resume_retry_cancel import Running, started_run


def members(tar: Path) -> dict[str, bytes]:
    """Return the members of a tar."""
    with tarfile.open(tar) as opened:
        return {member.name: file.read() for member in opened if (file := opened.extractfile(member)) is not None}


def entries(out: Path) -> set[str]:
    """Return the names in an output folder, except hidden ones."""
    return {path.name for path in out.iterdir() if not path.name.startswith(".")}


def test_webdataset_run_and_retry(fleet: str, demo_url: str, out: Path) -> None:
    """A shard's images are in the shard's tar and nowhere else. A retry adds the images that failed before."""
    urls = [f"{demo_url}/images/{index}.png" for index in range(5)]
    urls[2] = f"{demo_url}/fault/server-error-once?for=webdataset"
    options = ("--shard-size", "3", "--retries", "0", "--output-format", "webdataset", "--broker", fleet, "--json")
    facts = processes.producer("run", "-", "--out", out, *options, stdin="\n".join(urls).encode()).json()
    assert (facts["success"], facts["failed"]) == (4, 1)
    rows = processes.rows(out)
    assert [row["path"] for row in rows] == ["00000.tar", "00000.tar", None, "00001.tar", "00001.tar"]
    shards = {f"0000{shard}{end}" for shard in range(2) for end in (".tar", ".parquet", "_stats.json")}
    assert entries(out) == {"run.json", "failures.jsonl", *shards}
    first = members(out / "00000.tar")
    assert list(first) == ["000000.png", "000000.json", "000001.png", "000001.json"]
    assert json.loads(first["000001.json"])["sha256"] == rows[1]["sha256"]
    ended = processes.producer("retry", out, "--broker", fleet)
    assert (ended.code, f"{out}/00000.tar …" in ended.out) == (0, True)
    retried = members(out / "00000.tar")
    assert [name for name in retried if not name.endswith("json")] == ["000000.png", "000001.png", "000002.jpg"]
    assert {name: retried[name] for name in first} == first
    assert entries(out) == {"run.json", "failures.jsonl", *shards}
    assert processes.producer("doctor", "--out", out, "--broker", fleet).code == 0


@pytest.mark.slow
def test_killed_webdataset_run_is_resumed(fleet: str, demo_url: str, out: Path, tmp_path: Path) -> None:
    """If the producer is killed, staged images are used, and no image is requested twice."""
    with started_run(fleet, demo_url, out, tmp_path, "--output-format", "webdataset") as run:
        _kill_after_the_first_shard(run)
        facts = run.again("resume", "--json").json()
        assert (facts["success"], facts["failed"]) == (240, 0)
        assert run.requested == 240
    assert not list(out.glob("0*/"))
    keys = [name for tar in sorted(out.glob("*.tar")) for name in members(tar) if name.endswith(".png")]
    assert keys == [f"{row['key']}.png" for row in processes.rows(out)]


def _kill_after_the_first_shard(run: Running) -> None:
    run.until_begun()
    run.kill()


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    """An unknown format is reported before anything starts."""
    ended = processes.producer("run", "-", "--out", tmp_path / "out", "--output-format", "tfrecord")
    assert (ended.code, "is not one of 'files', 'webdataset'" in ended.err) == (2, True)


def test_sidecars(fleet: str, demo_url: str, out: Path) -> None:
    """A run with sidecars writes a sidecar beside each saved image. Sidecars are refused for packed shards."""
    options = ("--sidecar", "json,txt", "--broker", fleet)
    processes.producer("run", "-", "--out", out, *options, stdin=f"{demo_url}/images/1.png".encode())
    assert sorted(path.name for path in (out / "00000").iterdir()) == ["00000000.json", "00000000.png"]
    ended = processes.producer(
        "run", "-", "--out", out / "b", *options, "--output-format", "parquet", stdin=b"http://a"
    )
    assert (ended.code, "a packed shard contains metadata" in ended.err) == (2, True)
    ended = processes.producer("run", "-", "--out", out / "b", "--sidecar", "xml", stdin=b"http://a")
    assert (ended.code, "'xml' is not one of json, txt" in ended.err) == (2, True)


def test_path_template(fleet: str, demo_url: str, out: Path) -> None:
    """If a run has a path template, it saves its images under the template's names, and it can be checked.

    An image with a repeated name is a duplicate.
    """
    urls = [f"{demo_url}/images/1.png", f"{demo_url}/images/2.jpg", f"{demo_url}/images/1.png"]
    options = ("--path-template", "scrapy", "--broker", fleet, "--json")
    facts = processes.producer("run", "-", "--out", out, *options, stdin="\n".join(urls).encode()).json()
    assert (facts["success"], facts["reasons"]) == (2, {"duplicate": 1})
    names = [hashlib.sha1(url.encode()).hexdigest() for url in urls]
    rows = processes.rows(out)
    assert [row["path"] for row in rows] == [f"full/{names[0]}.png", f"full/{names[1]}.jpg", None]
    assert rows[2]["error_message"] == "the same file name as 00000000"
    assert {path.name for path in (out / "full").iterdir()} == {f"{names[0]}.png", f"{names[1]}.jpg"}
    (out / "00000.parquet").unlink()
    assert processes.producer("resume", out, "--broker", fleet, "--json").json()["success"] == 2
    assert [row["recovered"] for row in processes.rows(out)] == [True, True, False]
    assert "manifests are missing" not in processes.producer("doctor", "--out", out, "--broker", fleet).out
    (out / rows[0]["path"]).unlink()
    assert "1 image listed in manifests" in processes.producer("doctor", "--out", out, "--broker", fleet).out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--path-template", "../{key}"], "empty, . or .."),
        (["--path-template", "{key}", "--output-format", "parquet"], "saves no files to name"),
        (["--path-template", "{sha256}", "--sidecar", "json"], "equal images share a file"),
    ],
)
def test_wrong_templates_are_refused(tmp_path: Path, options: list[str], named: str) -> None:
    """A template that is invalid or conflicts with another option is reported before anything starts."""
    ended = processes.producer("run", "-", "--out", tmp_path / "out", *options, stdin=b"http://a.example/")
    assert (ended.code, named in ended.err) == (2, True), ended.err
    assert not (tmp_path / "out").exists()
