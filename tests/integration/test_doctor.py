"""`producer doctor` over real servers and workers: what it finds, its exit status, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from producer.runfile import PlanState, State
from tasks.storage import Store
from tests.integration import parts
from tests.runs import left

_ACL = parts.ROOT / "config" / "users.acl"


def examined(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run the doctor, and return its exit status and, by their names, what it found and how bad that is."""
    ended = parts.producer("doctor", "--json", *arguments, env=env)
    assert "Traceback" not in ended.err
    said = json.loads(ended.out)
    assert (ended.code == 0) is said["healthy"]
    findings = {finding["name"]: (finding["level"], finding["found"]) for finding in said["findings"]}
    assert len(findings) == len(said["findings"]), said
    return ended.code, findings


def test_all_is_well(fleet: str, out: Path) -> None:
    """With a broker and workers as they should be, all checks but one pass: the folder is not there, and stays so."""
    code, findings = examined("--broker", fleet, "--out", out)
    assert code == 0, findings
    disks = {name for name in findings if name.startswith("disk ")}
    assert {name for name, (level, _) in findings.items() if name not in disks and level != "ok"} == {"folder here"}
    assert findings["folder here"] == ("warn", f"{out} is not there; `producer run` can make it")
    assert findings["workers"][1].startswith("2 workers, ")
    assert "second@" in findings["folder at workers"][1]
    assert findings["clocks"][1].startswith("4 clocks ")
    assert set(findings) - disks == {
        *(
            "broker",
            "writes",
            "server version",
            "append-only file",
            "eviction policy",
            "memory",
            "connections",
            "workers",
            "queues",
            "clocks",
        ),
        *("folder here", "folder at workers"),
    }
    assert not out.exists()


def test_table(fleet: str, out: Path) -> None:
    """Without --json the findings are a table; a folder that was there stays, with nothing new in it."""
    out.mkdir()
    (out / "mine").touch()
    ended = parts.producer("doctor", "--broker", fleet, "--out", out)
    assert ended.code == 0, ended.out
    assert "eviction policy" in ended.out
    assert parts.files_below(out) == {"mine"}


def test_no_worker_and_a_server_that_is_not_fit(tmp_path: Path) -> None:
    """A broker without workers, that forgets and evicts, is told with all three findings."""
    options = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    with parts.redis_server(tmp_path, *options) as port:
        code, findings = examined("--broker", f"redis://127.0.0.1:{port}/0", "--out", tmp_path / "out")
    assert code == 1
    wrong = {name: level for name, (level, _) in findings.items() if level != "ok" and not name.startswith("disk ")}
    assert wrong == {"append-only file": "warn", "eviction policy": "bad", "workers": "bad", "folder here": "warn"}


def test_folder_outside_of_the_workers_roots(fleet: str, tmp_path: Path) -> None:
    """A folder that the workers may not write to is told, with the setting that decides it."""
    code, findings = examined("--broker", fleet, "--out", tmp_path / "elsewhere")
    assert code == 1
    level, found = findings["folder at workers"]
    assert level == "bad"
    assert "IMAGEFLEET_STORE_ROOTS" in found
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_worker_that_sees_another_folder(redis_port: int, tmp_path: Path) -> None:
    """A worker to which another disk has the path of the folder is told; both may write there."""
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && mkdir "$1/out" && shift && exec "$@"', "sh"]
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    # It takes root, which nobody has to be who runs the tests.
    allowed = subprocess.run([*hide, str(root), "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("this user may not mount")
    url = f"redis://127.0.0.1:{redis_port}/7"
    settings = {"IMAGEFLEET_BROKER_URL": url, "IMAGEFLEET_STORE_ROOTS": str(root)}
    argv = [*hide, str(root), sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "1"]
    with parts.started("worker", argv, tmp_path, settings):
        parts.eventually(lambda: parts.worker_stats(url), "the worker")
        code, findings = examined("--broker", url, "--out", root / "out")
    assert code == 1
    assert findings["folder here"][0] == "ok"
    level, found = findings["folder at workers"]
    assert (level, found.partition(": ")[2]) == ("bad", "the producer's file is not there")
    assert parts.missing_or_empty(root / "out")


def test_dead_broker() -> None:
    """A broker that does not answer is one finding, by its name without its password."""
    url = f"redis://me:word@127.0.0.1:{parts.free_port()}/0"
    ended = parts.producer("doctor", "--broker", url)
    assert ended.code == 1
    assert "can't be reached" in ended.out
    assert "Traceback" not in ended.err
    assert "word" not in ended.out + ended.err


def test_wrong_password(tmp_path: Path) -> None:
    """A broker that refuses the password says so."""
    with parts.redis_server(tmp_path, "--requirepass", "another") as port:
        for login in ("", ":word-of-mine@"):
            code, findings = examined("--broker", f"redis://{login}127.0.0.1:{port}/0")
            assert code == 1
            assert "refuses us" in findings["broker"][1]
            assert "word-of-mine" not in findings["broker"][1]


def test_server_that_tells_little(tmp_path: Path) -> None:
    """What a user may not ask for is unknown, which is a warning; where workers can't be asked, that is bad."""
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all -info -time -publish\n")
    with parts.redis_server(tmp_path, "--aclfile", str(users)) as port:
        code, findings = examined("--broker", f"redis://127.0.0.1:{port}/0")
    assert code == 1
    unknown = {name for name, (level, found) in findings.items() if level == "warn" and found.startswith("unknown")}
    assert unknown >= {"server version", "append-only file", "eviction policy", "memory"}
    assert findings["workers"][0] == "bad"


@pytest.mark.slow
def test_user_of_the_fleet_may_ask(tmp_path: Path) -> None:
    """The Redis user that config/users.acl gives to a fleet may do all that the doctor does."""
    users = tmp_path / "users.acl"
    users.write_text(
        _ACL.read_text().replace("on #ADMIN_SHA256", "on nopass").replace("on #IMAGEFLEET_SHA256", "on nopass")
    )
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    with parts.redis_server(tmp_path, "--aclfile", str(users)) as port:
        url = f"redis://imagefleet:any@127.0.0.1:{port}/0"
        with parts.worker("worker", tmp_path, url, root, "127.0.0.1"):
            parts.eventually(lambda: parts.worker_stats(url), "the worker")
            code, findings = examined("--broker", url, "--out", root / "out")
    assert code == 0, findings
    assert {level for name, (level, _) in findings.items() if not name.startswith("disk ")} == {"ok"}


def test_folder_that_can_not_be_written(tmp_path: Path) -> None:
    """A folder that can't be made is told with the reason, without a broker as well."""
    (tmp_path / "file").touch()
    code, findings = examined("--out", tmp_path / "file" / "out")
    assert code == 1
    assert findings["folder here"][0] == "bad"
    assert findings["local fleet"][0] == "ok"


def test_without_a_broker(tmp_path: Path) -> None:
    """Without a broker, the doctor says what a command would start for itself."""
    code, findings = examined("--out", tmp_path / "a" / "b")
    assert code == 0
    assert "no broker is named: a command starts" in findings["local fleet"][1]
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # names are wanted


def test_run_in_the_folder(tmp_path: Path) -> None:
    """A run whose producer has died is told with how to go on, and nothing of it is changed or locked."""
    out = tmp_path / "out"
    out.mkdir()
    left(tmp_path / "list.txt", Store(out), 11, 2, State.RUNNING, PlanState.COMPLETE)
    (out / ".plan/00003.parquet").unlink()
    (out / "00000.parquet").write_bytes(b"")
    before = parts.files_below(out)
    code, findings = examined("--out", out)
    assert code == 1
    assert findings["run"][0] == "warn"
    assert "its producer is dead" in findings["run"][1]
    assert findings["plan"][0] == "warn"
    assert findings["manifests"][0] == "bad"
    assert findings["manifests"][1].startswith(
        "2 of 4 shards done; of 2 that were checked, 1 not to be trusted: 00000.parquet"
    )
    assert parts.files_below(out) == before
