"""Say in sentences what went wrong during a run, and what was done about it."""

from __future__ import annotations

from collections.abc import Iterator

from producer.dispatch.host_report import HostReport
from producer.formatting import pluralized
from producer.report.figures import Figures


def describe_repairs(figures: Figures) -> list[str]:
    """Return a sentence for each kind of repair; a single sentence if there was none."""
    return list(_sentences(figures)) or ["Nothing had to be repaired."]


def _sentences(figures: Figures) -> Iterator[str]:
    record, totals = figures.record, figures.totals
    if repaired := totals.get("repaired", 0):
        yield f"{pluralized(repaired, 'task')} got lost, for example with a killed worker, and had to be sent again."
    if figures.recovered:
        yield (
            f"{pluralized(figures.recovered, 'image')} had been saved by an earlier task that was lost or interrupted. "
            "The saved files were checked and used."
        )
    if figures.retried:
        yield f"{pluralized(figures.retried, 'image')} needed more than one attempt."
    if record.epoch > record.revision:
        yield f"The run was continued by a later command {pluralized(record.epoch - record.revision, 'time')}."
    if record.revision:
        yield f"Failed images were retried by `producer retry` {pluralized(record.revision, 'time')}."
    for name, why in totals.get("unfit_workers", {}).items():
        yield f"Worker {name} could not run tasks and left them to other workers: {why}"
    for facts in totals.get("hosts", ()):
        host = HostReport.from_json(facts)
        yield f"Host {host.host}: {host.reason}."
