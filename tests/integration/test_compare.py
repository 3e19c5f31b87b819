"""The demo and `producer compare` download one list in three ways. `producer serve` serves images for `compare`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.integration import processes

WAYS = {"one by one": "one-by-one", "threads": "threads", "fleet": "fleet"}


def test_demo_compares_three_ways(tmp_path: Path) -> None:
    """In an empty folder and without any service, the demo downloads the same ten images in three ways.

    The user's proxy is not used, because it does not know the server on this machine.
    """
    env = {"IMAGEFLEET_PROXY": "http://127.0.0.1:1"}
    ended = processes.producer("demo", "--json", "--images", "10", "--latency", "300ms", cwd=tmp_path, env=env)
    facts = ended.json()
    out = tmp_path / "imagefleet-demo"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert (facts["out"], facts["chart"]) == (str(out), str(out / "comparison.svg"))
    assert "<svg" in (out / "comparison.svg").read_text()
    assert json.loads((out / "comparison.json").read_text()) == facts
    assert_same_images(facts, out, 10)
    one_by_one, threads, fleet = facts["ways"]
    assert one_by_one["wall_seconds"] >= 10 * 0.3
    # The threshold of the speed-up is low enough for a busy machine. The threshold still shows that the waits of
    # several downloads overlap.
    assert threads["speedup"] >= 2
    assert fleet["speedup"] >= 2


def test_compare_against_a_demo_server(tmp_path: Path) -> None:
    """`producer compare` fetches a list from `producer serve`. Afterwards, the server ends cleanly on Ctrl-C."""
    argv = processes.command(["serve", "--port", "0", "--width", "80", "--height", "40"])
    with processes.started("serve", argv, tmp_path) as server:
        line = server.first_line().split()
        url = next(word for word in line if word.startswith("http://"))
        source, out = tmp_path / "list.txt", tmp_path / "compared"
        source.write_text("".join(f"{url}/images/{number}.{'png' if number % 2 else 'jpg'}\n" for number in range(12)))
        ended = processes.producer(
            *("compare", source, "--out", out, "--shard-size", "5", "--workers", "1", "--json"),
            env={"IMAGEFLEET_ALLOW_NETWORKS": url.removeprefix("http://")},
        )
        assert_same_images(ended.json(), out, 12)
        assert (out / "comparison.svg").stat().st_size > 0
        assert processes.request_count(url, "/images") == 3 * 12
        os.killpg(server.process.pid, signal.SIGINT)
        served = server.wait(10)
    assert served.code == 0
    assert served.err == ""
    assert url.removeprefix("http://") in served.out.partition("IMAGEFLEET_ALLOW_NETWORKS=")[2]


def test_demo_prints_a_table(tmp_path: Path) -> None:
    """Without ``--json``, the demo prints a line for each way, an explanation, and where images and chart are.

    A sweep also measures a fleet of one worker, and shorter lists. It leaves no images.
    """
    options = ("--images", "11", "--latency", "0", "--workers", "2", "--threads", "3", "--sweep")
    ended = processes.producer("demo", *options, "--out", tmp_path / "here")
    assert ended.code == 0, ended.err
    assert "Total Execution Time" in ended.out
    assert all(any(line.strip().startswith(way) for line in ended.out.splitlines()) for way in WAYS)
    assert "The fleet's queue cost " in ended.out
    assert str(tmp_path / "here" / "comparison.svg") in ended.out
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        *WAYS.values(),
        "comparison.json",
        "comparison.svg",
    }
    sweep = json.loads((tmp_path / "here" / "comparison.json").read_text())["sweep"]
    assert [point["slots"] for point in sweep["threads"]] == [1, 2, 3]
    assert [point["workers"] for point in sweep["workers"]] == [1, 2]
    assert [point["images"] for point in sweep["lengths"]] == [10, 11]


def assert_same_images(facts: dict[str, object], out: Path, count: int) -> None:
    """Make sure that each way saved all images, with identical files in the three folders."""
    ways = facts["ways"]
    assert isinstance(ways, list)
    assert {way["name"]: way["out"] for way in ways} == {name: str(out / folder) for name, folder in WAYS.items()}
    for way in ways:
        assert (way["total"], way["success"], way["failed"], way["reasons"]) == (count, count, 0, {})
    files = [
        {name: (out / folder / name).read_bytes() for name in processes.image_files(out / folder)}
        for folder in WAYS.values()
    ]
    assert len(files[0]) == count
    assert files[0] == files[1] == files[2]
