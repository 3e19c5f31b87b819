"""Files and rows agree, even if every task is delivered twice and every request gets a different image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL import Image

from tasks.celery import IMAGE_QUEUE
from tests.integration import processes

COUNT = 10
FORMATS = {"jpg": "jpeg", "png": "png", "webp": "webp", "gif": "gif"}


def test_each_file_is_written_once(redis_port: int, demo_url: str, store_root: Path, out: Path, tmp_path: Path) -> None:
    """If a URL is listed ten times and each request gets another image, the ten rows describe the ten saved files."""
    # The test uses a separate database, so that no worker takes the tasks before their copies are queued.
    broker = f"redis://127.0.0.1:{redis_port}/1"
    source = tmp_path / "list.txt"
    # The latency is long enough for all twenty tasks to run at once.
    source.write_text(f"{demo_url}/changing?latency=1\n" * COUNT)
    before = processes.request_count(demo_url, "/changing")
    argv = processes.command(
        ["run", source, "--out", out, "--broker", broker, "--json", "--per-host-concurrency", str(2 * COUNT)]
    )
    with processes.started("run", argv, tmp_path) as run, processes.connect(broker) as server:
        processes.eventually(lambda: server.llen(IMAGE_QUEUE) == COUNT, "ten tasks")
        originals = [str(message) for message in server.lrange(IMAGE_QUEUE, 0, -1)]
        copies = [redelivered(message, number) for number, message in enumerate(originals)]
        server.rpush(IMAGE_QUEUE, *copies)
        assert server.llen(IMAGE_QUEUE) == 2 * COUNT
        with processes.worker("worker", tmp_path, broker, store_root, "127.0.0.1", "-c", str(2 * COUNT)):
            facts = run.wait(60).json()
            processes.eventually(
                lambda: server.llen(IMAGE_QUEUE) == processes.unacked_count(server) == 0, "the end of all copies"
            )
    assert (facts["total"], facts["success"]) == (COUNT, COUNT)
    # There were twice as many requests as rows. This shows that the copies were really fetched.
    assert processes.request_count(demo_url, "/changing") - before == 2 * COUNT
    rows = processes.rows(out)
    assert [row["key"] for row in rows] == [f"00000{place:03d}" for place in range(COUNT)]
    for row in rows:
        file = out / row["path"]
        body = file.read_bytes()
        with Image.open(file) as image:
            kind = str(image.format).lower()
            assert (row["width"], row["height"]) == image.size
        assert file.stem == row["key"]
        assert row["format"] == FORMATS[file.suffix.removeprefix(".")] == kind
        assert (row["bytes"], row["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert len({row["sha256"] for row in rows}) == COUNT
    assert processes.image_files(out) == {row["path"] for row in rows}
    assert processes.missing_or_empty(out / ".tmp")


def redelivered(message: str, number: int) -> str:
    """Return the message as Redis redelivers it, with another delivery tag."""
    content = json.loads(message)
    content["properties"]["delivery_tag"] = f"copy-{number}"
    return json.dumps(content)
