"""A run with real workers writes its report, whose figures are those of the command and of the manifests."""

from __future__ import annotations

from pathlib import Path

from producer.output.run_file import RunFile
from producer.report.figures import collect_figures
from tasks.storage.local_store import LocalStore
from tests.integration import processes

_ON = {"IMAGEFLEET_REPORT": "on"}


def test_run_writes_its_report(fleet: str, demo_url: str, out: Path) -> None:
    """The report of `run` has the counts of its JSON, a retry renews it, and `producer report` writes it again."""
    urls = [f"{demo_url}/images/{index}.png?latency=0.02" for index in range(12)]
    urls[4] = f"{demo_url}/fault/server-error-once?for=report"
    urls[9] = f"{demo_url}/fault/not-found"
    options = ("--broker", fleet, "--json", "--shard-size", "5", "--retries", "0")
    text = "\n".join(urls).encode()
    facts = processes.producer("run", "-", "--out", out, *options, stdin=text, env=_ON).json()
    page = out / "report.html"
    assert facts["report"] == str(page)
    assert f"<dt>Saved</dt><dd>{facts['success']}<" in page.read_text()
    store = LocalStore(out)
    figures = collect_figures(RunFile.load(store), store)
    assert {"total": figures.summary.total, "reasons": figures.summary.reasons} == {
        "total": facts["total"],
        "reasons": facts["reasons"],
    }
    for name, phase in figures.phases.items():
        # A failed image is not saved, and all images may reuse connections of an earlier test.
        assert (0 if name == "connect_seconds" else 1) <= phase.number <= 12, name
    assert figures.phases["first_byte_seconds"].percentile(0.5) >= 0.02
    assert figures.phases["queued_seconds"].greatest < 60
    assert (page.stat().st_mode & 0o777) == 0o600

    retried = processes.producer("retry", out, "--broker", fleet, env=_ON)
    assert f"The report is in      {page}" in retried.out
    assert "<dt>Saved</dt><dd>11<" in page.read_text()
    page.unlink()
    assert processes.producer("report", out).out == f"The report is in {page}\n"
    assert "<dt>Saved</dt><dd>11<" in page.read_text()


def test_local_fleet_writes_its_report(demo_url: str, out: Path) -> None:
    """A local fleet ends while its report is built, and the report is whole."""
    urls = "\n".join(f"{demo_url}/images/{index}.png" for index in range(8)).encode()
    options = ("--workers", "1", "--json")
    env = {**_ON, "IMAGEFLEET_ALLOW_NETWORKS": "127.0.0.1"}
    facts = processes.producer("run", "-", "--out", out, *options, stdin=urls, env=env).json()
    page = (out / "report.html").read_text()
    assert facts["report"] == str(out / "report.html")
    assert page.count("data:image/webp;base64,") == facts["success"] == 8
    assert page.endswith("</html>")
    assert not list((out / ".tmp").iterdir())


def test_unwritable_report_does_not_fail_the_run(fleet: str, demo_url: str, out: Path) -> None:
    """If the report can't be written, a note says why and how to write it, and the run is complete."""
    out.mkdir()
    ended = processes.producer("run", "-", "--out", out, "--broker", fleet, stdin=f"{demo_url}/images/1.png".encode())
    assert ended.code == 0
    (out / "report.html").mkdir()
    (out / "report.html" / "file").touch()
    urls = f"{demo_url}/images/2.png".encode()
    options = ("--broker", fleet, "--incremental", "extend")
    ended = processes.producer("run", "-", "--out", out, *options, stdin=urls, env=_ON)
    assert ended.code == 0
    assert "The run is complete, but its report was not written:" in ended.err
    assert f"`producer report {out}`" in ended.err
    assert processes.producer("report", out).code == 1
