"""An unfit worker does not start, or the run's command names this worker. The other workers execute the tasks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tasks.broker import requeue
from tasks.broker.client import client
from tests.integration import processes
from tests.waiting import PATIENCE

#: For each kind, the wrapper of the plain worker command. The wrapper needs root, and ends when the worker ends.
_UNSHARED = {
    # The worker has neither a responding name server nor a hosts file.
    "resolver": ("--mount", 'mount --bind "$0/empty" /etc/resolv.conf && mount --bind "$0/empty" /etc/hosts'),
    "route": ("--net", ":"),
    "read-only": ("--mount", 'mount --bind "$0/root" "$0/root" && mount -o remount,bind,ro "$0/root"'),
}


@pytest.fixture(scope="module")
def mixed(redis_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Give a broker and a folder. One worker at the broker may write below the folder, and another worker may not."""
    url, folder = f"redis://127.0.0.1:{redis_port}/5", tmp_path_factory.mktemp("mixed")
    root, other = folder / "root", folder / "other"
    with (
        processes.worker("good", folder, url, root, "127.0.0.1", "--hostname", "good@%h"),
        processes.worker("stray", folder, url, other, "127.0.0.1", "--hostname", "stray@%h"),
    ):
        processes.eventually(lambda: len(processes.worker_stats(url)) == 2, "two workers")
        yield url, root


def test_worker_without_a_store_root_does_not_start(tmp_path: Path, redis_port: int) -> None:
    """If a plain worker has no store root, it ends at once, and its error names the missing variable."""
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    env = {"IMAGEFLEET_BROKER_URL": f"redis://127.0.0.1:{redis_port}/6", "IMAGEFLEET_STORE_ROOT": "/data"}
    with processes.started("worker", argv, tmp_path, env) as worker:
        ended = worker.wait()
    assert ended.code == 1
    assert "this worker can't start: IMAGEFLEET_STORE_ROOTS is not set" in ended.err
    assert "IMAGEFLEET_STORE_ROOT (did you mean IMAGEFLEET_STORE_ROOTS?)" in ended.err


def test_missing_store_root_is_reported(mixed: tuple[str, Path]) -> None:
    """If a worker's store root does not exist, the worker warns when it starts, and the doctor reports it."""
    broker, root = mixed
    missing = root.with_name("other")
    log = (root.parent / "stray.err").read_text()
    assert f"these folders of IMAGEFLEET_STORE_ROOTS do not exist on this machine: {missing};" in log
    ended = processes.producer("doctor", "--json", "--broker", broker)
    found = {finding["name"]: (finding["level"], finding["found"]) for finding in json.loads(ended.out)["findings"]}
    level, text = found["store roots"]
    assert level == "warn"
    assert f"stray@{socket.gethostname()} ({missing})" in text


def test_refuses_a_folder_that_no_worker_may_write(fleet: str, demo_url: str, tmp_path: Path) -> None:
    """A run outside of all workers' roots is refused before it starts, and leaves nothing behind."""
    out = tmp_path / "out"
    url = f"{demo_url}/images/1.jpg".encode()
    ended = processes.producer("run", "-", "--out", out, "--broker", fleet, "--json", stdin=url)
    assert ended.code == 2
    what, why, todo = processes.error_parts(ended)
    assert what == f"No worker can save images in {out}"
    assert "second@" in why
    assert "IMAGEFLEET_STORE_ROOTS" in todo
    assert not out.exists()


def test_resume_and_retry_are_refused_likewise(fleet: str, demo_url: str, tmp_path: Path) -> None:
    """The commands `resume` and `retry` are refused like the first command, and change nothing."""
    out, env = tmp_path / "out", {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    urls = f"{demo_url}/images/1.jpg\n{demo_url}/fault/server-error\n".encode()
    arguments = ("run", "-", "--out", out, "--workers", "1", "--retries", "0", "--json")
    assert processes.producer(*arguments, env=env, stdin=urls).json()["failed"] == 1
    complete = (out / "run.json").read_text()
    ended = processes.producer("retry", out, "--broker", fleet, "--json")
    assert (ended.code, processes.error_parts(ended)[0]) == (2, f"No worker can save images in {out}")
    assert (out / "run.json").read_text() == complete
    (out / "00000.parquet").unlink()
    ended = processes.producer("resume", out, "--broker", fleet, "--json")
    assert (ended.code, processes.error_parts(ended)[0]) == (2, f"No worker can save images in {out}")
    assert (out / "run.json").read_text() == complete
    assert not list(out.glob(".doctor-*"))


def test_unfit_worker_is_named_and_others_do_the_work(mixed: tuple[str, Path], demo_url: str) -> None:
    """Before the command sends tasks, it names the worker that can't save images.

    This worker does not count for the fleet.
    """
    broker, root = mixed
    urls = "".join(f"{demo_url}/images/{number}.jpg\n" for number in range(100)).encode()
    ended = processes.producer("run", "-", "--out", root / "out", "--broker", broker, "--json", stdin=urls)
    facts = ended.json()
    assert (facts["workers"], facts["success"]) == (1, 100)
    assert {row["attempts"] for row in processes.rows(root / "out")} == {1}
    (name,) = facts["unfit_workers"]
    assert name.startswith("stray@")
    assert "IMAGEFLEET_STORE_ROOTS" in facts["unfit_workers"][name]
    assert f"Warning: some workers can't save images of this run, and leave it to others: {name}: " in ended.err


def test_names_misspelt_settings(tmp_path: Path, demo_url: str) -> None:
    """The doctor and a command with a local fleet name unknown variables, and suggest the right variables."""
    env = {"IMAGEFLEET_ALOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_XYZ": "1"}
    report = json.loads(processes.producer("doctor", "--json", env=env).out)
    (finding,) = [finding for finding in report["findings"] if finding["name"] == "unknown settings"]
    unknown = "IMAGEFLEET_ALOW_NETWORKS (did you mean IMAGEFLEET_ALLOW_NETWORKS?), IMAGEFLEET_XYZ"
    assert (finding["level"], finding["found"]) == ("warn", f"ignored: {unknown}")
    url = f"{demo_url}/images/1.jpg".encode()
    ended = processes.producer("run", "-", "--out", tmp_path / "out", "--workers", "1", "--json", env=env, stdin=url)
    assert ended.json()["success"] == 1
    assert ended.err == f"Warning: unknown environment variables are ignored: {unknown}.\n"


@contextmanager
def kinds_of_workers(folder: Path, broker: str, allow: str) -> Iterator[dict[str, processes.Background]]:
    """Give two good workers, and one unfit worker of each kind. All workers share a folder ``root``."""
    root = folder / "root"
    for name in ("root", "other"):
        (folder / name).mkdir()
    (folder / "empty").touch()
    closed = f"http://127.0.0.1:{processes.free_port()}"
    settings = {"first": {}, "second": {}, "stray": {"STORE_ROOTS": str(folder / "other")}, "proxy": {"PROXY": closed}}
    with ExitStack() as stack:
        found = {}
        for name in (*settings, *_UNSHARED):
            argv = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "8", "-n", f"{name}@%h"]
            if name in _UNSHARED:
                kind, script = _UNSHARED[name]
                argv = ["unshare", kind, "sh", "-c", f'{script} && exec "$@"', str(folder), *argv]
            changes = {
                "BROKER_URL": broker,
                "STORE_ROOTS": str(root),
                "ALLOW_NETWORKS": allow,
                **settings.get(name, {}),
            }
            env = {f"IMAGEFLEET_{variable}": value for variable, value in changes.items()}
            found[name] = stack.enter_context(processes.started(name, argv, folder, env))
        with client(broker) as server:

            def are_up() -> bool:
                ended = [worker.err for worker in found.values() if worker.process.poll() is not None]
                assert not ended
                return len(requeue.unacked_hashes(server)) > len(found)

            processes.eventually(are_up, "all workers", 30 * PATIENCE)
        yield found


@pytest.mark.slow
def test_unfit_workers_cost_no_image(redis_url: str, demo_url: str, tmp_path: Path) -> None:
    """If there are two good workers too, unfit workers of each kind cost no image.

    The run and the doctor name each unfit worker. After a worker's fault is fixed, the worker becomes fit again.
    """
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces")
    host = demo_url.replace("127.0.0.1", "localhost")
    urls = "".join(f"{host}/images/{number}.jpg?latency=0.05\n" for number in range(2000)).encode()
    out = tmp_path / "root" / "out"
    with kinds_of_workers(tmp_path, redis_url, "127.0.0.1,::1") as workers:
        arguments = ("run", "-", "--out", out, "--broker", redis_url, "--shard-size", "200", "--timeout", "5", "--json")
        ended = processes.producer(*arguments, stdin=urls, seconds=60 * PATIENCE)
        facts = ended.json()
        assert (facts["success"], facts["failed"]) == (2000, 0), facts
        kinds = {name.partition("@")[0]: why for name, why in facts["unfit_workers"].items()}
        assert kinds.keys() == workers.keys() - {"first", "second"}
        assert "can't be resolved" in kinds["resolver"]
        assert "the proxy can't be reached" in kinds["proxy"]
        assert "nreachable" in kinds["route"]
        assert "Read-only file system" in kinds["read-only"]
        assert "IMAGEFLEET_STORE_ROOTS" in kinds["stray"]
        assert "a worker takes no tasks of this run at present: proxy@" in ended.err
        report = json.loads(processes.producer("doctor", "--broker", redis_url, "--out", out, "--json").out)
        found = {finding["name"]: finding["found"] for finding in report["findings"]}
        assert all(f"{name}@" in found["unfit workers"] for name in ("resolver", "proxy", "route"))
        # The worker reads this file as its /etc/hosts.
        (tmp_path / "empty").write_text("127.0.0.1 localhost\n")
        slow = "".join(f"{host}/images/{number}.jpg?latency=1\n" for number in range(2000)).encode()
        argv = processes.command(("run", "-", "--out", tmp_path / "root" / "again", "--broker", redis_url))
        with processes.started("again", argv, tmp_path, stdin=subprocess.PIPE) as again:
            assert again.process.stdin is not None
            again.process.stdin.write(slow)
            again.process.stdin.close()
            processes.eventually(
                lambda: "this worker is fit again" in workers["resolver"].err, "a resolved name", 24 * PATIENCE
            )
