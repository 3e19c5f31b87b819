"""What a command can't use, it refuses in three parts: what happened, why, and what to do; never by a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.celery import FETCH_IMAGE, IMAGES
from tests.integration import parts

_PASSWORD = "word-of-mine"


@pytest.fixture(scope="module")
def locked_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Give the port of a Redis that wants a password."""
    with parts.redis_server(tmp_path_factory.mktemp("locked"), "--requirepass", "another") as port:
        yield port


@pytest.fixture
def source(tmp_path: Path, demo_url: str) -> Path:
    """Give a list of one good image."""
    path = tmp_path / "list.txt"
    path.write_text(f"{demo_url}/images/1.jpg\n")
    return path


def refused(code: int, *arguments: str | Path, stdin: bytes = b"") -> tuple[str, str, str]:
    """Run what has to be refused, and return the three parts of what it says."""
    ended = parts.producer(*arguments, stdin=stdin, seconds=30)
    assert ended.code == code, ended.err
    assert _PASSWORD not in ended.err
    return parts.error_parts(ended)


def test_source_that_is_missing(tmp_path: Path) -> None:
    """A list that is not there is named, and the run's folder is not made."""
    what, why, _ = refused(2, "run", tmp_path / "none.txt", "--out", tmp_path / "out")
    assert str(tmp_path / "none.txt") in what
    assert "No such file" in why
    assert not (tmp_path / "out").exists()


def test_source_that_is_binary(tmp_path: Path) -> None:
    """A binary file is refused as a list, before anything is started."""
    source = tmp_path / "binary.txt"
    source.write_bytes(b"\x7fELF\x02\x01\x01\x00\x00\x00")
    what, why, _ = refused(2, "run", source, "--out", tmp_path / "out")
    assert str(source) in what
    assert "binary" in why


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"url,caption\nhttp://127.0.0.1/1.jpg,dog\n", "a table"),
        (b'{"url": "http://127.0.0.1/1.jpg"}\n', "JSON"),
        (b"\x1f\x8b\x08\0", "a gzip file"),
    ],
    ids=["table", "JSON", "gzip"],
)
def test_source_in_another_format(tmp_path: Path, text: bytes, name: str) -> None:
    """A list in another format is refused by its name, before a fleet is started or a folder is made."""
    what, _, _ = refused(2, "run", "-", "--out", tmp_path / "out", stdin=text)
    assert name in what
    assert not (tmp_path / "out").exists()


def test_source_that_is_a_folder(tmp_path: Path) -> None:
    """A folder given as the list is refused."""
    what, why, _ = refused(2, "run", tmp_path, "--out", tmp_path / "out")
    assert str(tmp_path) in what
    assert "directory" in why


@pytest.mark.parametrize("text", [b"", b"\n\n  \r\n", b"# a comment\n#http://127.0.0.1/1.jpg\n"])
def test_source_without_a_url(tmp_path: Path, text: bytes) -> None:
    """A list of nothing but blank lines and comments is refused: nobody wants an empty run."""
    what, _, _ = refused(2, "run", "-", "--out", tmp_path / "out", stdin=text)
    assert "no URL" in what


def test_out_that_cannot_be_written(tmp_path: Path, source: Path) -> None:
    """An output folder below a regular file is refused, before anything is started."""
    (tmp_path / "file").write_text("a file")
    what, _, _ = refused(2, "run", source, "--out", tmp_path / "file" / "out")
    assert str(tmp_path / "file" / "out") in what


def test_out_that_holds_a_run(fleet: str, source: Path, out: Path) -> None:
    """A folder that holds a run is refused, by each command that writes one, and nothing in it is changed."""
    assert parts.producer("run", source, "--out", out, "--broker", fleet, "--json").json()["success"] == 1
    before = {name: (out / name).read_bytes() for name in parts.files_below(out)}
    what, _, todo = refused(2, "run", source, "--out", out, "--broker", fleet)
    assert str(out) in what
    assert "--out" in todo
    what, _, _ = refused(2, "compare", source, "--out", out, "--broker", fleet)
    assert str(out) in what
    assert {name: (out / name).read_bytes() for name in parts.files_below(out)} == before


def test_broker_that_cannot_be_reached(tmp_path: Path, source: Path) -> None:
    """A broker at which nobody listens is refused, and its password is not shown."""
    port = parts.free_port()
    url = f"redis://user:{_PASSWORD}@127.0.0.1:{port}/0"
    what, why, _ = refused(1, "run", source, "--out", tmp_path / "out", "--broker", url)
    assert f"127.0.0.1:{port}" in what
    assert "refused" in why


def test_broker_that_may_evict(tmp_path: Path, source: Path) -> None:
    """A Redis that may drop keys when memory is short is refused, and the setting that mends it is named."""
    with parts.redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru") as port:
        _, why, todo = refused(1, "run", source, "--out", tmp_path / "out", "--broker", f"redis://127.0.0.1:{port}/0")
    assert "allkeys-lru" in why
    assert "noeviction" in todo


@pytest.mark.parametrize("user", ["", f":{_PASSWORD}@", f"user:{_PASSWORD}@"], ids=["none", "wrong", "unknown user"])
def test_broker_that_refuses_the_password(tmp_path: Path, source: Path, locked_port: int, user: str) -> None:
    """A wrong or missing password is told as such, and never printed."""
    url = f"redis://{user}127.0.0.1:{locked_port}/0"
    what, _, todo = refused(1, "run", source, "--out", tmp_path / "out", "--broker", url)
    assert f"127.0.0.1:{locked_port}" in what
    assert "password" in todo


@pytest.mark.parametrize(
    "url",
    [f"amqp://user:{_PASSWORD}@127.0.0.1/", f"rediss://:{_PASSWORD}@127.0.0.1/0", "not a url", "redis://127.0.0.1:x/0"],
)
def test_broker_url_that_cannot_be_used(tmp_path: Path, source: Path, url: str) -> None:
    """A URL of another kind, one that makes no sense, and TLS that nobody would verify, are refused as usage."""
    what, _, todo = refused(2, "run", source, "--out", tmp_path / "out", "--broker", url)
    assert "broker" in what
    assert "--debug" not in todo


def test_deadline_beyond_what_redis_waits_for(tmp_path: Path, source: Path) -> None:
    """A deadline above 150 s is refused with the reason, as a task would be done twice; 150 s is the last good one."""
    ended = parts.producer("run", source, "--out", tmp_path / "out", "--deadline", "151")
    assert ended.code == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert "--deadline" in ended.err
    assert "150" in ended.err
    assert not (tmp_path / "out").exists()


def test_last_good_deadline(fleet: str, source: Path, out: Path) -> None:
    """The longest deadline that is promised is taken."""
    ended = parts.producer("run", source, "--out", out, "--broker", fleet, "--deadline", "150", "--json")
    assert ended.json()["success"] == 1
    assert json.loads((out / "run.json").read_text())["options"]["fetch"]["deadline"] == 150


def test_source_as_other_programs_write_it(fleet: str, demo_url: str, tmp_path: Path, out: Path) -> None:
    """A list in UTF-16 with CR line ends, quotation marks and commas is downloaded; the rows have its URLs as given."""
    names = ("0.jpg", "a/../1.jpg", "%2E/2.jpg", "../images/3.jpg#part")
    urls = [f"{demo_url}/images/{name}" for name in names]
    source = tmp_path / "wide.txt"
    source.write_bytes(f"\ufeff\"{urls[0]}\",\r<{urls[1]}>\r'{urls[2]}';\r\ufeff{urls[3]}\r".encode("utf-16-le"))
    assert parts.producer("run", source, "--out", out, "--broker", fleet, "--json").json()["success"] == 4
    assert [row["url"] for row in parts.rows(out)] == urls


def test_task_that_a_person_sends(fleet: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A worker that gets a task by `celery call` says in its log what is wrong with it, and goes on."""
    logs = sorted(tmp_path_factory.getbasetemp().glob("workers*/*.err"))
    url = f"http://user:{_PASSWORD}@127.0.0.1/1.jpg"
    env = parts.environment({"IMAGEFLEET_BROKER_URL": fleet})
    for arguments in ([url], ["no-such-run", 0, url]):
        call = [sys.executable, "-m", "celery", "-A", "tasks", "call", FETCH_IMAGE]
        call += ["--args", json.dumps(arguments), "--queue", IMAGES]
        subprocess.run(call, env=env, cwd=parts.ROOT, capture_output=True, timeout=60, check=True)

    def said() -> str:
        text = "".join(log.read_text(encoding="utf-8") for log in logs)
        return text if "producer run SOURCE --out OUT" in text and "no-such-run" in text else ""

    text = parts.eventually(said, "both messages")
    assert "there is no run no-such-run at this broker: it has ended, or never began" in text
    assert "missing 2 required positional arguments: 'index' and 'url'" in text
    assert len(parts.worker_stats(fleet)) == 2
