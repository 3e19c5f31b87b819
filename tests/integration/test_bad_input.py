"""If a command refuses bad input, it says what happened, why, and what to do. It never shows a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.celery import FETCH_IMAGE, IMAGE_QUEUE
from tests.integration import processes

_PASSWORD = "word-of-mine"


@pytest.fixture(scope="module")
def locked_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Give the port of a Redis with a password."""
    with processes.redis_server(tmp_path_factory.mktemp("locked"), "--requirepass", "another") as port:
        yield port


@pytest.fixture
def source(tmp_path: Path, demo_url: str) -> Path:
    """Give a list of one good image."""
    path = tmp_path / "list.txt"
    path.write_text(f"{demo_url}/images/1.jpg\n")
    return path


def refused(code: int, *arguments: str | Path, stdin: bytes = b"") -> tuple[str, str, str]:
    """Run a command that must be refused, and return the three parts of its error message."""
    ended = processes.producer(*arguments, stdin=stdin, seconds=30)
    assert ended.code == code, ended.err
    assert _PASSWORD not in ended.err
    return processes.error_parts(ended)


def test_refuses_a_missing_list(tmp_path: Path) -> None:
    """If the list is missing, the error message names it, and no output folder is created."""
    what, why, _ = refused(2, "run", tmp_path / "none.txt", "--out", tmp_path / "out")
    assert str(tmp_path / "none.txt") in what
    assert "No such file" in why
    assert not (tmp_path / "out").exists()


def test_refuses_a_binary_list(tmp_path: Path) -> None:
    """A binary file is refused as a list before anything starts."""
    source = tmp_path / "binary.txt"
    source.write_bytes(b"\x7fELF\x02\x01\x01\x00\x00\x00")
    what, why, _ = refused(2, "run", source, "--out", tmp_path / "out")
    assert str(source) in what
    assert "binary" in why


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"url,caption\nhttp://127.0.0.1/1.jpg,dog\n", "a table"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\x1f\x8b\x08\0", "can't be read at its start"),
    ],
    ids=["table", "PDF", "truncated gzip"],
)
def test_refuses_a_list_in_another_format(tmp_path: Path, text: bytes, name: str) -> None:
    """A list in another format is refused before a fleet starts or a folder is created. The error names the format."""
    what, _, _ = refused(2, "run", "-", "--out", tmp_path / "out", stdin=text)
    assert name in what
    assert not (tmp_path / "out").exists()


def test_refuses_an_empty_folder_as_the_list(tmp_path: Path) -> None:
    """A folder without files is refused as the list."""
    what, _, _ = refused(2, "run", tmp_path, "--out", tmp_path / "out")
    assert what == f"The folder {tmp_path} contains no files"


@pytest.mark.parametrize("text", [b"", b"\n\n  \r\n", b"# a comment\n#http://127.0.0.1/1.jpg\n"])
def test_refuses_a_list_without_a_url(tmp_path: Path, text: bytes) -> None:
    """A list of only blank lines and comments is refused, because an empty run is useless."""
    what, _, _ = refused(2, "run", "-", "--out", tmp_path / "out", stdin=text)
    assert "no URL" in what


def test_refuses_an_unwritable_output_folder(tmp_path: Path, source: Path) -> None:
    """An output folder below a regular file is refused before anything starts."""
    (tmp_path / "file").write_text("a file")
    what, _, _ = refused(2, "run", source, "--out", tmp_path / "file" / "out")
    assert str(tmp_path / "file" / "out") in what


def test_refuses_a_folder_with_a_run(fleet: str, source: Path, out: Path) -> None:
    """Each command that writes a run refuses a folder that has a run, and changes nothing in this folder."""
    assert processes.producer("run", source, "--out", out, "--broker", fleet, "--json").json()["success"] == 1
    before = {name: (out / name).read_bytes() for name in processes.files_below(out)}
    what, _, todo = refused(2, "run", source, "--out", out, "--broker", fleet)
    assert str(out) in what
    assert "--out" in todo
    what, _, _ = refused(2, "compare", source, "--out", out, "--broker", fleet)
    assert str(out) in what
    assert {name: (out / name).read_bytes() for name in processes.files_below(out)} == before


def test_refuses_an_unreachable_broker(tmp_path: Path, source: Path) -> None:
    """If nothing listens at the broker URL, the URL is refused, and its password is not shown."""
    port = processes.free_port()
    url = f"redis://user:{_PASSWORD}@127.0.0.1:{port}/0"
    what, why, _ = refused(1, "run", source, "--out", tmp_path / "out", "--broker", url)
    assert f"127.0.0.1:{port}" in what
    assert "refused" in why


def test_refuses_an_evicting_broker(tmp_path: Path, source: Path) -> None:
    """A Redis that may evict keys is refused. The error message names the setting to change."""
    with processes.redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru") as port:
        _, why, todo = refused(1, "run", source, "--out", tmp_path / "out", "--broker", f"redis://127.0.0.1:{port}/0")
    assert "allkeys-lru" in why
    assert "noeviction" in todo


@pytest.mark.parametrize("user", ["", f":{_PASSWORD}@", f"user:{_PASSWORD}@"], ids=["none", "wrong", "unknown user"])
def test_reports_a_wrong_password_without_showing_it(tmp_path: Path, source: Path, locked_port: int, user: str) -> None:
    """If the password is wrong or missing, the error message gives this as the cause. The password is never printed."""
    url = f"redis://{user}127.0.0.1:{locked_port}/0"
    what, _, todo = refused(1, "run", source, "--out", tmp_path / "out", "--broker", url)
    assert f"127.0.0.1:{locked_port}" in what
    assert "password" in todo


@pytest.mark.parametrize(
    "url",
    [f"amqp://user:{_PASSWORD}@127.0.0.1/", f"rediss://:{_PASSWORD}@127.0.0.1/0", "not a url", "redis://127.0.0.1:x/0"],
)
def test_refuses_an_unusable_broker_url(tmp_path: Path, source: Path, url: str) -> None:
    """Another scheme, a malformed URL, and TLS without verification are usage errors."""
    what, _, todo = refused(2, "run", source, "--out", tmp_path / "out", "--broker", url)
    assert "broker" in what
    assert "--debug" not in todo


def test_refuses_a_deadline_above_the_redelivery_time(tmp_path: Path, source: Path) -> None:
    """A deadline above the maximum of 150 s is refused, because tasks would be redelivered while they run."""
    ended = processes.producer("run", source, "--out", tmp_path / "out", "--deadline", "151")
    assert ended.code == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert "--deadline" in ended.err
    assert "150" in ended.err
    assert not (tmp_path / "out").exists()


def test_accepts_the_longest_deadline(fleet: str, source: Path, out: Path) -> None:
    """The longest documented deadline is accepted."""
    ended = processes.producer("run", source, "--out", out, "--broker", fleet, "--deadline", "150", "--json")
    assert ended.json()["success"] == 1
    assert json.loads((out / "run.json").read_text())["options"]["fetch"]["deadline"] == 150


def test_reads_lists_of_other_programs(fleet: str, demo_url: str, tmp_path: Path, out: Path) -> None:
    """A list in UTF-16 with CR line ends, quotes and commas works. The rows have the URLs exactly as in the list."""
    names = ("0.jpg", "a/../1.jpg", "%2E/2.jpg", "../images/3.jpg#part")
    urls = [f"{demo_url}/images/{name}" for name in names]
    source = tmp_path / "wide.txt"
    source.write_bytes(f"\ufeff\"{urls[0]}\",\r<{urls[1]}>\r'{urls[2]}';\r\ufeff{urls[3]}\r".encode("utf-16-le"))
    assert processes.producer("run", source, "--out", out, "--broker", fleet, "--json").json()["success"] == 4
    assert [row["url"] for row in processes.rows(out)] == urls


def test_survives_a_hand_sent_task(fleet: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """If `celery call` sends a task with a mistake, the worker logs the mistake and continues."""
    logs = sorted(tmp_path_factory.getbasetemp().glob("workers*/*.err"))
    url = f"http://user:{_PASSWORD}@127.0.0.1/1.jpg"
    env = processes.environment({"IMAGEFLEET_BROKER_URL": fleet})
    for arguments in ([url], ["no-such-run", 0, url]):
        call = [sys.executable, "-m", "celery", "-A", "tasks", "call", FETCH_IMAGE]
        call += ["--args", json.dumps(arguments), "--queue", IMAGE_QUEUE]
        subprocess.run(call, env=env, cwd=processes.ROOT, capture_output=True, timeout=60, check=True)

    def both_messages() -> str:
        text = "".join(log.read_text(encoding="utf-8") for log in logs)
        return text if "producer run SOURCE --out OUT" in text and "no-such-run" in text else ""

    text = processes.eventually(both_messages, "both messages")
    assert "run no-such-run does not exist at this broker: it has ended or was never started" in text
    assert "missing 2 required positional arguments: 'index' and 'url'" in text
    assert len(processes.worker_stats(fleet)) == 2
