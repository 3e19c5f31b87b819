"""The tables of metrics in the documentation: name, labels and meaning, from the code that serves the metrics."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from producer.dispatch.progress import Progress
from producer.runs.run_metrics import RunMetrics, queue_metrics
from tasks.metrics.counters import WorkerState
from tasks.metrics.prometheus import PrometheusMetrics, create_registry

#: How the names of a type's series end.
_ENDINGS = {"counter": "_total", "info": "_info"}


def worker() -> str:
    """Return the table of a worker's metrics."""
    return _table(worker_metrics())


def command() -> str:
    """Return the table of the metrics of a command that works on a run."""
    return _table(run_metrics())


def worker_metrics() -> list[Metric]:
    """Return the metrics of a worker. Those of prometheus_client itself, such as the used memory, are left out."""
    registry = create_registry()
    PrometheusMetrics(registry, WorkerState(lambda: 0, lambda: 0, lambda: False))
    return [metric for metric in registry.collect() if metric.name.startswith("imagefleet_")]


def run_metrics() -> list[Metric]:
    """Return the metrics of a command that works on a run."""
    metrics = RunMetrics()
    metrics.update(Progress(success=0, failed=0, bytes=0, planned=0, plan_complete=False))
    return [*metrics.collect(), *queue_metrics({"images": 0})]


def labels(metric: Metric) -> list[str]:
    """Return the labels of a metric. The bounds of a histogram are left out."""
    return [
        label for label in dict.fromkeys(label for sample in metric.samples for label in sample.labels) if label != "le"
    ]


def series_name(metric: Metric) -> str:
    """Return the name that a query uses. The series of histograms and summaries have further endings."""
    return f"{metric.name}{_ENDINGS.get(metric.type, '')}"


def _table(metrics: Iterable[Metric]) -> str:
    rows = ["| metric | type | meaning |", "|---|---|---|"]
    for metric in metrics:
        named = ", ".join(labels(metric))
        shown = f"{series_name(metric)}{{{named}}}" if named else series_name(metric)
        rows.append(f"| `{shown}` | {metric.type} | {metric.documentation} |")
    return "\n".join(rows) + "\n"
