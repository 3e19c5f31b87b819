"""The findings, exit status and clean-up of `producer doctor` with real servers and workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from producer.output.run_file import PlanState, State
from tasks.storage.local_store import LocalStore
from tests.integration import processes
from tests.runs import make_run

_ACL = processes.ROOT / "config" / "users.acl"


def diagnose(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run the doctor; return its exit status, and the level and text of each finding by name."""
    ended = processes.producer("doctor", "--json", *arguments, env=env)
    assert "Traceback" not in ended.err
    report = json.loads(ended.out)
    assert (ended.code == 0) is report["healthy"]
    findings = {finding["name"]: (finding["level"], finding["found"]) for finding in report["findings"]}
    assert len(findings) == len(report["findings"]), report
    return ended.code, findings


def test_healthy_setup_passes(fleet: str, out: Path) -> None:
    """With a good broker and good workers, all checks pass except the check of the missing folder. It stays missing."""
    code, findings = diagnose("--broker", fleet, "--out", out)
    assert code == 0, findings
    disks = {name for name in findings if name.startswith("disk ")}
    assert {name for name, (level, _) in findings.items() if name not in disks and level != "ok"} == {"folder here"}
    assert findings["folder here"] == ("warn", f"{out} does not exist; `producer run` can create it")
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
            "hosts",
        ),
        *("folder here", "folder at workers"),
    }
    assert not out.exists()


def test_prints_a_table(fleet: str, out: Path) -> None:
    """Without --json, the findings are printed as a table. An existing folder stays unchanged."""
    out.mkdir()
    (out / "mine").touch()
    ended = processes.producer("doctor", "--broker", fleet, "--out", out)
    assert ended.code == 0, ended.out
    assert "eviction policy" in ended.out
    assert processes.files_below(out) == {"mine"}


def test_reports_missing_workers_and_an_unfit_server(tmp_path: Path) -> None:
    """If a broker has no workers, has no append-only file, and evicts keys, each of these faults gets a finding."""
    options = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    with processes.redis_server(tmp_path, *options) as port:
        code, findings = diagnose("--broker", f"redis://127.0.0.1:{port}/0", "--out", tmp_path / "out")
    assert code == 1
    wrong = {name: level for name, (level, _) in findings.items() if level != "ok" and not name.startswith("disk ")}
    assert wrong == {"append-only file": "warn", "eviction policy": "bad", "workers": "bad", "folder here": "warn"}


def test_reports_a_folder_outside_of_the_workers_roots(fleet: str, tmp_path: Path) -> None:
    """A folder outside of the workers' roots is reported, with the setting to change."""
    code, findings = diagnose("--broker", fleet, "--out", tmp_path / "elsewhere")
    assert code == 1
    level, found = findings["folder at workers"]
    assert level == "bad"
    assert "IMAGEFLEET_STORE_ROOTS" in found
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_reports_a_worker_with_another_folder(redis_port: int, tmp_path: Path) -> None:
    """A worker with another disk at the folder's path is reported, even if both the worker and the doctor can write."""
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && mkdir "$1/out" && shift && exec "$@"', "sh"]
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    # Mounting requires root, but the tests must not require root.
    allowed = subprocess.run([*hide, str(root), "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("this user may not mount")
    url = f"redis://127.0.0.1:{redis_port}/7"
    settings = {"IMAGEFLEET_BROKER_URL": url, "IMAGEFLEET_STORE_ROOTS": str(root)}
    argv = [*hide, str(root), sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "1"]
    with processes.started("worker", argv, tmp_path, settings):
        processes.eventually(lambda: processes.worker_stats(url), "the worker")
        code, findings = diagnose("--broker", url, "--out", root / "out")
    assert code == 1
    assert findings["folder here"][0] == "ok"
    level, found = findings["folder at workers"]
    assert (level, found.partition(": ")[2]) == ("bad", "the producer's file does not exist")
    assert processes.missing_or_empty(root / "out")


def test_unreachable_broker_is_one_finding() -> None:
    """An unreachable broker gives one finding, which has the broker's address but not the password."""
    url = f"redis://me:word@127.0.0.1:{processes.free_port()}/0"
    ended = processes.producer("doctor", "--broker", url)
    assert ended.code == 1
    assert "can't be reached" in ended.out
    assert "Traceback" not in ended.err
    assert "word" not in ended.out + ended.err


def test_reports_a_wrong_password(tmp_path: Path) -> None:
    """If Redis refuses the password, the finding says so."""
    with processes.redis_server(tmp_path, "--requirepass", "another") as port:
        for login in ("", ":word-of-mine@"):
            code, findings = diagnose("--broker", f"redis://{login}127.0.0.1:{port}/0")
            assert code == 1
            assert "refuses us" in findings["broker"][1]
            assert "word-of-mine" not in findings["broker"][1]


def test_warns_about_unknown_server_settings(tmp_path: Path) -> None:
    """If the user may not read a Redis setting, the doctor warns. If workers do not answer, it reports an error."""
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all -info -time -publish\n")
    with processes.redis_server(tmp_path, "--aclfile", str(users)) as port:
        code, findings = diagnose("--broker", f"redis://127.0.0.1:{port}/0")
    assert code == 1
    unknown = {name for name, (level, found) in findings.items() if level == "warn" and found.startswith("unknown")}
    assert unknown >= {"server version", "append-only file", "eviction policy", "memory"}
    assert findings["workers"][0] == "bad"


@pytest.mark.slow
def test_user_of_the_fleet_may_run_all_checks(tmp_path: Path) -> None:
    """The fleet's Redis user in config/users.acl has the permissions for all checks of the doctor."""
    users = tmp_path / "users.acl"
    users.write_text(
        _ACL.read_text().replace("on #ADMIN_SHA256", "on nopass").replace("on #IMAGEFLEET_SHA256", "on nopass")
    )
    root = tmp_path / "root"
    (root / "out").mkdir(parents=True)
    with processes.redis_server(tmp_path, "--aclfile", str(users)) as port:
        url = f"redis://imagefleet:any@127.0.0.1:{port}/0"
        with processes.worker("worker", tmp_path, url, root, "127.0.0.1"):
            # The client of `worker_stats` has kombu's own transport, which needs more permissions than ours.
            admin = f"redis://admin:any@127.0.0.1:{port}/0"
            processes.eventually(lambda: processes.worker_stats(admin), "the worker")
            code, findings = diagnose("--broker", url, "--out", root / "out")
    assert code == 0, findings
    assert {level for name, (level, _) in findings.items() if not name.startswith("disk ")} == {"ok"}


def test_reports_an_unwritable_folder(tmp_path: Path) -> None:
    """If the folder can't be created, the doctor reports the reason, even without a broker."""
    (tmp_path / "file").touch()
    code, findings = diagnose("--out", tmp_path / "file" / "out")
    assert code == 1
    assert findings["folder here"][0] == "bad"
    assert findings["local fleet"][0] == "ok"


def test_without_a_broker(tmp_path: Path) -> None:
    """Without a broker, the doctor reports the processes of a local fleet."""
    code, findings = diagnose("--out", tmp_path / "a" / "b")
    assert code == 0
    assert "no broker is set: commands start" in findings["local fleet"][1]
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # only names are needed


def test_reports_a_dead_producers_run(tmp_path: Path) -> None:
    """If a run's producer is dead, the doctor names the command to resume it. The run is neither changed nor locked."""
    out = tmp_path / "out"
    out.mkdir()
    make_run(tmp_path / "list.txt", LocalStore(out), 11, 2, State.RUNNING, PlanState.COMPLETE)
    (out / ".plan/00003.parquet").unlink()
    (out / "00000.parquet").write_bytes(b"")
    before = processes.files_below(out)
    code, findings = diagnose("--out", out)
    assert code == 1
    assert findings["run"][0] == "warn"
    assert "its producer is dead" in findings["run"][1]
    assert findings["plan"][0] == "warn"
    assert findings["manifests"][0] == "bad"
    assert findings["manifests"][1].startswith("2 of 4 shards done, all checked, 1 unusable: 00000.parquet")
    assert processes.files_below(out) == before
