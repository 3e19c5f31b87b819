"""Workers that can't do a run's work: they don't start, or the run's command names them, and others do the work."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import parts


@pytest.fixture(scope="module")
def mixed(redis_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Give a broker with a worker that may write below a folder, and one that may not; and that folder."""
    url, folder = f"redis://127.0.0.1:{redis_port}/5", tmp_path_factory.mktemp("mixed")
    root, other = folder / "root", folder / "other"
    with (
        parts.worker("good", folder, url, root, "127.0.0.1", "--hostname", "good@%h"),
        parts.worker("stray", folder, url, other, "127.0.0.1", "--hostname", "stray@%h"),
    ):
        parts.eventually(lambda: len(parts.worker_stats(url)) == 2, "two workers")
        yield url, root


def test_worker_without_a_store_root_does_not_start(tmp_path: Path, redis_port: int) -> None:
    """A plain worker that may save nothing ends at once, and says which variable is missing."""
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    env = {"IMAGEFLEET_BROKER_URL": f"redis://127.0.0.1:{redis_port}/6", "IMAGEFLEET_STORE_ROOT": "/data"}
    with parts.started("worker", argv, tmp_path, env) as worker:
        ended = worker.wait()
    assert ended.code == 1
    assert "this worker can't start: IMAGEFLEET_STORE_ROOTS is not set" in ended.err
    assert "IMAGEFLEET_STORE_ROOT (did you mean IMAGEFLEET_STORE_ROOTS?)" in ended.err


def test_folder_that_no_worker_may_write(fleet: str, demo_url: str, tmp_path: Path) -> None:
    """A run outside of all workers' roots is refused before it begins, and leaves nothing."""
    out = tmp_path / "out"
    url = f"{demo_url}/images/1.jpg".encode()
    ended = parts.producer("run", "-", "--out", out, "--broker", fleet, "--json", stdin=url)
    assert ended.code == 2
    what, why, todo = parts.told(ended)
    assert what == f"No worker can save images in {out}"
    assert "second@" in why
    assert "IMAGEFLEET_STORE_ROOTS" in todo
    assert not out.exists()


def test_resume_and_retry_are_refused_in_the_same_way(fleet: str, demo_url: str, tmp_path: Path) -> None:
    """A command that goes on with a run is refused like the first one, and changes nothing."""
    out, env = tmp_path / "out", {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    urls = f"{demo_url}/images/1.jpg\n{demo_url}/fault/server-error\n".encode()
    arguments = ("run", "-", "--out", out, "--workers", "1", "--retries", "0", "--json")
    assert parts.producer(*arguments, env=env, stdin=urls).json()["failed"] == 1
    complete = (out / "run.json").read_text()
    ended = parts.producer("retry", out, "--broker", fleet, "--json")
    assert (ended.code, parts.told(ended)[0]) == (2, f"No worker can save images in {out}")
    assert (out / "run.json").read_text() == complete
    (out / "00000.parquet").unlink()
    ended = parts.producer("resume", out, "--broker", fleet, "--json")
    assert (ended.code, parts.told(ended)[0]) == (2, f"No worker can save images in {out}")
    assert (out / "run.json").read_text() == complete
    assert not list(out.glob(".doctor-*"))


def test_unfit_worker_is_named_and_the_others_do_the_work(mixed: tuple[str, Path], demo_url: str) -> None:
    """The command names a worker that can't save before it sends anything, and counts it as none of the fleet's."""
    broker, root = mixed
    urls = "".join(f"{demo_url}/images/{number}.jpg\n" for number in range(100)).encode()
    ended = parts.producer("run", "-", "--out", root / "out", "--broker", broker, "--json", stdin=urls)
    facts = ended.json()
    assert facts["workers"] == 1
    (name,) = facts["unfit_workers"]
    assert name.startswith("stray@")
    assert "IMAGEFLEET_STORE_ROOTS" in facts["unfit_workers"][name]
    assert f"Warning: workers that can't save images of this run leave it to the others: {name}: " in ended.err


def test_misspelt_settings_are_named(tmp_path: Path, demo_url: str) -> None:
    """The doctor and a command with a local fleet name variables that nothing reads, with what was meant."""
    env = {"IMAGEFLEET_ALOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_XYZ": "1"}
    said = json.loads(parts.producer("doctor", "--json", env=env).out)
    (finding,) = [finding for finding in said["findings"] if finding["name"] == "unknown settings"]
    unknown = "IMAGEFLEET_ALOW_NETWORKS (did you mean IMAGEFLEET_ALLOW_NETWORKS?), IMAGEFLEET_XYZ"
    assert (finding["level"], finding["found"]) == ("warn", f"nothing reads {unknown}")
    url = f"{demo_url}/images/1.jpg".encode()
    ended = parts.producer("run", "-", "--out", tmp_path / "out", "--workers", "1", "--json", env=env, stdin=url)
    assert ended.json()["success"] == 1
    assert ended.err == f"Warning: nothing reads these variables of the environment: {unknown}.\n"
