"""Read the levels of the doctor's findings."""

from __future__ import annotations

from producer.doctor.finding import Finding, Level


def levels(findings: list[Finding]) -> dict[str, Level]:
    """Return the levels of all findings except OK, by name."""
    assert all(bool(finding.todo) == (finding.level is not Level.OK) for finding in findings)
    return {finding.name: finding.level for finding in findings if finding.level is not Level.OK}
