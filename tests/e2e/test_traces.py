"""OpenTelemetry's own instrumentation of Celery traces the tasks of a worker. imagefleet has no code for it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from producer.local_fleet.demo_process import DemoProcess
from tests.conftest import required_module
from tests.integration import processes

#: The command `opentelemetry-instrument`.
_INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
_SETTINGS = {
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    # The spans are printed when they end, not in batches.
    "OTEL_BSP_SCHEDULE_DELAY": "100",
}


def test_traces_name_tasks_and_no_url(demo: DemoProcess, tmp_path: Path) -> None:
    """With the documented command, each task of a run is a span with the image's key, and no span has a URL."""
    for module in ("opentelemetry.distro", "opentelemetry.instrumentation.celery"):
        required_module(module)
    page = (processes.ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert "opentelemetry-instrument celery -A tasks worker" in page
    with processes.redis_server(tmp_path) as port:
        broker = f"redis://127.0.0.1:{port}/0"
        env = {
            "IMAGEFLEET_BROKER_URL": broker,
            "IMAGEFLEET_STORE_ROOTS": str(tmp_path),
            "IMAGEFLEET_ALLOW_NETWORKS": demo.address,
            **_SETTINGS,
        }
        celery = (sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "4", "-l", "WARNING")
        with processes.started("worker", [sys.executable, "-c", _INSTRUMENT, *celery], tmp_path, env) as worker:
            urls = [f"http://user:secret@{demo.address}/images/{number}.jpg?token=secret" for number in range(5)]
            given = "\n".join([*urls, f"{demo.url}/fault/not-found"]).encode()
            arguments = ("run", "-", "--out", tmp_path / "out", "--broker", broker, "--json")
            ended = processes.producer(*arguments, stdin=given).json()
            assert (ended["success"], ended["failed"]) == (5, 1)
            run_id = ended["run_id"]

            def spans() -> set[tuple[str, str]]:
                return set(re.findall(r'"name": "(run/.+?)"(?:.|\n)+?"messaging\.message\.id": "(.+?)"', worker.out))

            wanted = {("run/tasks.jobs.fetch_image", f"{run_id}.{number:08d}") for number in range(6)}
            wanted.add(("run/tasks.jobs.collect_shard", f"{run_id}.00000.collect"))
            processes.eventually(lambda: spans() == wanted, "a span for each task")
            assert "secret" not in worker.out
            assert demo.address not in worker.out
