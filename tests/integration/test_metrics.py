"""Workers serve metrics that count the images of a real run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.integration.processes import command, eventually, producer, started
from tests.metrics import free_ports, images, read_metrics


def test_workers_count_the_images_of_a_run(tmp_path: Path, demo_url: str) -> None:
    """Each worker of a local fleet has a port of its own. Together they count each image once, by its reason."""
    first = free_ports(2)
    urls = [f"{demo_url}/images/{number}.jpg" for number in range(12)]
    urls += [f"{demo_url}/fault/not-found?{number}" for number in range(3)]
    # The last image keeps the fleet alive until its metrics have been read.
    urls.append(f"{demo_url}/images/0.jpg?latency=5")
    source, out = tmp_path / "urls.txt", tmp_path / "out"
    source.write_text("\n".join(urls))
    env = {"IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1", "IMAGEFLEET_METRICS_PORT": str(first)}
    argv = command(["run", source, "--out", out, "--workers", "2", "--concurrency", "4", "--json"])
    with started("run", argv, tmp_path, env) as run:

        def counts() -> dict[str, float]:
            return dict(Counter(images(first)) + Counter(images(first + 1)))

        eventually(lambda: counts() == {"": 12, "http_4xx": 3} or run.process.poll() is not None, "the images")
        assert counts() == {"": 12, "http_4xx": 3}, run.err
        metrics = [read_metrics(port) for port in (first, first + 1)]
        assert [one["imagefleet_slots"] for one in metrics] == [4, 4]
        assert sum(one["imagefleet_busy_slots"] for one in metrics) == 1
        assert sum(one["imagefleet_saved_bytes_total"] for one in metrics) == sum(
            file.stat().st_size for file in (out / "00000").iterdir()
        )
        assert demo_url.removeprefix("http://") not in str(metrics)
        run.process.kill()


@pytest.mark.slow
def test_taken_port_is_explained(tmp_path: Path) -> None:
    """A worker that can't serve its metrics does not start, and the command says which setting to change."""
    env = {"IMAGEFLEET_METRICS_PORT": "9750", "IMAGEFLEET_METRICS_ADDRESS": "192.0.2.1"}
    ended = producer("fleet", "--store-root", tmp_path, "--workers", "1", env=env)
    assert ended.code == 1
    assert "IMAGEFLEET_METRICS_PORT: the metrics can't be served at 192.0.2.1, port 9750" in " ".join(ended.err.split())
