"""Workers and commands serve metrics that count the images of a real run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.integration.processes import command, eventually, producer, started
from tests.metrics import free_ports, images, read_metrics


def test_metrics_agree_with_the_result(tmp_path: Path, demo_url: str) -> None:
    """Workers and command count each image once, by its reason. The command's last numbers are those of its result.

    Each worker of a local fleet has a port of its own. The command waits until its last numbers have been read.
    """
    first = free_ports(3)
    workers, command_port = (first, first + 1), first + 2
    urls = [f"{demo_url}/images/{number}.jpg" for number in range(12)]
    urls += [f"{demo_url}/fault/not-found?{number}" for number in range(3)]
    # The last image keeps the fleet alive until its metrics have been read.
    urls.append(f"{demo_url}/images/0.jpg?latency=3")
    source, out = tmp_path / "urls.txt", tmp_path / "out"
    source.write_text("\n".join(urls))
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_METRICS_PORT": str(first)}
    argv = command(["run", source, "--out", out, "--workers", "2", "--concurrency", "4", "--json"])
    with started("run", [*argv, "--metrics-port", str(command_port)], tmp_path, env) as run:

        def counts() -> dict[str, float]:
            return dict(Counter(images(workers[0])) + Counter(images(workers[1])))

        def run_counts() -> dict[str, float]:
            return images(command_port, "imagefleet_run_images")

        wanted = {"": 12, "http_4xx": 3}
        eventually(lambda: counts() == run_counts() == wanted or run.process.poll() is not None, "15 images")
        assert counts() == wanted, run.err
        metrics = [read_metrics(port) for port in workers]
        assert [one["imagefleet_slots"] for one in metrics] == [4, 4]
        assert sum(one["imagefleet_busy_slots"] for one in metrics) == 1
        saved = sum(file.stat().st_size for file in (out / "00000").iterdir())
        assert sum(one["imagefleet_saved_bytes_total"] for one in metrics) == saved
        during = read_metrics(command_port)
        assert (during["imagefleet_run_complete"], during["imagefleet_run_planned_images"]) == (0, 16)
        assert (during["imagefleet_redis_up"], during['imagefleet_queued_tasks{queue="images"}']) == (1, 0)
        assert demo_url.removeprefix("http://") not in str([*metrics, during])
        # The result is printed, and the command still runs.
        eventually(lambda: run.out or run.process.poll() is not None, "the result")
        assert run.process.poll() is None, run.err
        assert run_counts() == {"": 13, "http_4xx": 3}
        ended = run.wait(5).json()
    assert (ended["success"], ended["reasons"]) == (13, {"http_4xx": 3})


def test_unusable_port_is_explained(tmp_path: Path) -> None:
    """If a worker can't serve its metrics, no fleet starts, and the command says which setting to change."""
    env = {"IMAGEFLEET_METRICS_PORT": "9750", "IMAGEFLEET_METRICS_ADDRESS": "192.0.2.1"}
    ended = producer("fleet", "--store-root", tmp_path, "--workers", "1", env=env)
    assert ended.code == 2
    assert "192.0.2.1, port 9750: Cannot assign requested address" in ended.err
    assert "Choose another IMAGEFLEET_METRICS_PORT" in ended.err
