"""The report has the figures of the manifests, shows hostile texts as texts, and needs nothing outside of its file."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from producer.local_fleet.supervisor_client import ROOT
from producer.output.run_file import RunFile, State
from producer.output.shard_files import load_manifest
from producer.report.figures import collect_figures
from producer.report.writer import write_report
from tasks.errors import CommandError, UsageError
from tasks.model import Reason
from tasks.storage.local_store import LocalStore
from tests.unit.report.made_run import HOSTILE_MESSAGE, HOSTILE_URL, make_run, outcome

_TAGS_WITH_REQUESTS = frozenset({"link", "img", "script", "iframe", "object", "embed", "audio", "video", "source"})


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        if self.elements[-1:] and self.elements[-1][0] == "script" and not self.scripts:
            self.scripts.append(data)
        self.texts.append(data.strip())

    def addresses(self) -> Iterator[str]:
        """Yield everything that a browser would load."""
        for tag, attributes in self.elements:
            if tag in _TAGS_WITH_REQUESTS:
                yield from (value for name in ("src", "href", "data") if (value := attributes.get(name)))


def page_of(store: LocalStore) -> Page:
    """Write the report of a run, and return it."""
    return Page(Path(write_report(store)).read_text(encoding="utf-8"))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Return the folder of a run with 22 saved images and three failures. One failure has hostile texts."""
    outcomes = [outcome(index) for index in range(25)]
    outcomes[3] = outcome(3, Reason.TIMEOUT, attempts=3, fetch_seconds=9.0)
    outcomes[7] = outcome(7, Reason.HTTP_4XX, error_message=HOSTILE_MESSAGE, http_status=404)
    outcomes[11] = outcome(11, Reason.TIMEOUT)
    outcomes[24] = outcome(24, recovered=True)
    return make_run(tmp_path / "out", outcomes, {7: HOSTILE_URL, 8: "HTTP://User:pw@B.Example:80/x", 9: "not a URL"})


def test_figures_are_those_of_the_manifests(store: LocalStore) -> None:
    """Counts, reasons, hosts, formats, workers and phases add up to the images of the run."""
    figures = collect_figures(RunFile.load(store), store)
    assert (figures.summary.total, figures.summary.success, figures.summary.failed) == (25, 22, 3)
    assert (figures.summary.shards, figures.summary.reasons) == (3, {"timeout": 2, "http_4xx": 1})
    assert {host.name: (host.images, host.failed) for host in figures.hosts.most(50)} == {
        "a.example": (23, 3),
        "b.example": (1, 0),
        "(no host)": (1, 0),
    }
    assert (figures.images.formats, figures.images.sizes) == ({"png": 22}, {(4, 3): 22})
    assert sum(worker.images for worker in figures.activity.workers) == 25
    assert figures.phases["first_byte_seconds"].number == 25
    assert figures.phases["first_byte_seconds"].percentile(0.5) == pytest.approx(0.15, rel=0.03)
    assert (figures.recovered, figures.retried) == (1, 1)
    assert figures.samples.slowest[0]["key"] == "000003"
    assert [row["key"] for row in figures.samples.failed] == ["000003", "000007", "000011"]
    assert len(figures.samples.images) == 22


def test_page_starts_with_the_total_time(store: LocalStore) -> None:
    """The Total Execution Time is the first figure, and the counts follow."""
    texts = [text for text in page_of(store).texts if text]
    start = texts.index("Total Execution Time")
    assert texts[start + 1] == "2.70 s"
    for name, value in (("Saved", "22"), ("Failed", "3"), ("Images per second", "9.26")):
        assert texts[texts.index(name, start) + 1] == value


def test_run_without_failures(tmp_path: Path) -> None:
    """If no image failed, no command to retry is suggested."""
    assert "producer retry" not in " ".join(page_of(make_run(tmp_path / "out", [outcome(0)])).texts)


def test_last_command_without_images(store: LocalStore) -> None:
    """If the last command only completed the run, the page says so instead of showing its speed."""
    record = RunFile.load(store)
    finished = (record.finished_at or 0.0) + 1000
    record.save(store, epoch=1, finished_at=finished, totals={**(record.totals or {}), "wall_seconds": 0.5})
    texts = page_of(store).texts
    assert "The last command finished no image. Earlier commands finished 25 images." in texts
    assert "No image has finished yet." not in texts


def test_run_with_earlier_lists(store: LocalStore) -> None:
    """If a run was extended, the page does not say that all images are from the last list."""
    assert "and earlier lists" not in " ".join(page_of(store).texts)
    RunFile.load(store).save(store, earlier_shards=1, earlier_rows=10)
    texts = " ".join(page_of(store).texts)
    assert "and earlier lists, finished" in texts
    assert "This command downloads the last list" in texts


def test_commands_can_be_copied(tmp_path: Path) -> None:
    """The commands name the folder in which the run is now, quoted for the shell, and a secret ends no command."""
    make_run(tmp_path / "before", [outcome(index, Reason.TIMEOUT) for index in range(300)])
    folder = tmp_path / "my images"
    (tmp_path / "before").rename(folder)
    store = LocalStore(folder)
    record = RunFile.load(store)
    options = replace(record.options, max_parked=5)
    broker = "redis://:***@b.example/0"
    record.save(store, source="https://a.example/list.txt?token=topsecret", options=options, broker=broker)
    texts = page_of(store).texts
    assert f"producer retry '{folder}' --broker 'redis://***@b.example/0'" in texts
    assert f"producer failures '{folder}'" in texts
    command = next(text for text in texts if text.startswith("producer run"))
    assert shlex.split(command)[2:] == [
        *("https://a.example/list.txt?token=***", "--out", "ANOTHER_FOLDER"),
        *("--shard-size", "10", "--max-parked", "5", "--broker", "redis://***@b.example/0"),
    ]


def test_long_urls_are_shortened(tmp_path: Path) -> None:
    """A list may have images as URLs. The page shows only their beginnings, so it stays small."""
    urls = dict.fromkeys(range(200), "data:image/png;base64," + "A" * 100000)
    urls[3] = "http://a.example/" + "b" * 8000
    failed = [outcome(index, Reason.INVALID_URL, fetch_seconds=0.0) for index in range(200)]
    page = Path(write_report(make_run(tmp_path / "out", failed, urls)))
    assert page.stat().st_size < 2_000_000
    assert "AAA… (100,022 characters)" in page.read_text(encoding="utf-8")


def test_hostile_texts_are_shown_as_texts(store: LocalStore) -> None:
    """Markup, scripts and control characters of a URL or a message are text, and secrets are masked."""
    page = page_of(store)
    shown = "".join(page.texts)
    assert "http://a.example/<script>alert(1)</script>\ufffd[31m\ufffd'\"&sig=***" in shown
    assert "</td></table><img src=x onerror=alert(1)>\ufffd" in shown
    assert "topsecret" not in shown
    assert "pw@" not in shown
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_page_loads_nothing(store: LocalStore) -> None:
    """The page has no address except thumbnails in the file itself, and its policy allows only its own script."""
    page = page_of(store)
    assert all(address.startswith("data:") for address in page.addresses())
    thumbnails = [address for address in page.addresses() if address.startswith("data:image/webp;base64,")]
    assert len(thumbnails) == 22
    policy = next(a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    links = [attributes.get("href") or "" for tag, attributes in page.elements if tag == "a"]
    assert all(re.match(r"#|https?://|0000\d/", link, re.IGNORECASE) for link in links)


def test_report_of_an_unfinished_run(store: LocalStore) -> None:
    """The report of an interrupted run covers the shards with a manifest, and says so."""
    record = RunFile.load(store)
    record.save(store, state=State.INTERRUPTED, totals=None, finished_at=None)
    store.remove("00001.parquet")
    texts = " ".join(page_of(store).texts)
    assert "Time so far" in texts
    assert "The run is interrupted. This page covers the 2 shards with a manifest." in " ".join(texts.split())
    assert "15 images from" in " ".join(texts.split())
    # An incomplete run can't be retried.
    assert f"To continue the run: producer resume {store.root}" in " ".join(texts.split())
    assert "producer retry" not in texts


def test_complete_run_without_a_manifest(store: LocalStore) -> None:
    """If a manifest of a complete run is missing, the page says that it is incomplete."""
    assert "missing" not in " ".join(page_of(store).texts)
    store.remove("00001.parquet")
    texts = " ".join(" ".join(page_of(store).texts).split())
    assert "The manifests of 1 shard are missing, so this page lacks their images." in texts


def test_report_before_the_first_shard(tmp_path: Path) -> None:
    """A run without a manifest has a report too."""
    store = make_run(tmp_path / "out", [outcome(0)])
    RunFile.load(store).save(store, state=State.RUNNING, totals=None, finished_at=None)
    store.remove("00000.parquet")
    assert "No image has finished yet." in page_of(store).texts


def test_run_with_only_failures(tmp_path: Path) -> None:
    """A run that saved nothing has a report without images."""
    store = make_run(tmp_path / "out", [outcome(0, Reason.DNS, phases=None, fetch_seconds=0.0, attempts=0)])
    assert {"No image was saved.", "100 %"} <= set(page_of(store).texts)


def test_manifest_of_an_earlier_version(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests without the columns of phases are shown without phases."""

    def load(*arguments: Any) -> pa.Table:
        table = load_manifest(*arguments)
        return table.drop_columns([name for name in table.column_names if name.startswith(("queued", "save"))])

    monkeypatch.setattr("producer.report.manifest_rows.load_manifest", load)
    figures = collect_figures(RunFile.load(store), store)
    assert (figures.phases["queued_seconds"].number, figures.phases["body_seconds"].number) == (0, 25)


def test_many_images_give_a_limited_page(tmp_path: Path) -> None:
    """The page has at most 120 thumbnails, 100 slow images, and 250 failures of a reason, and says what it left out."""
    outcomes = [outcome(index) if index % 3 else outcome(index, Reason.TIMEOUT) for index in range(1000)]
    store = make_run(tmp_path / "out", outcomes)
    page = page_of(store)
    assert sum(address.startswith("data:image/webp") for address in page.addresses()) == 120
    texts = " ".join(" ".join(page.texts).split())
    assert "250 of 334 failed images" in texts
    assert "120 images of 666" in texts


def test_damaged_manifest_is_an_error(store: LocalStore) -> None:
    """A damaged manifest is reported, and an old report is kept."""
    write_report(store)
    store.replace("00002.parquet", b"damaged")
    with pytest.raises(CommandError, match="is unusable"):
        write_report(store)
    assert store.exists("report.html")


def test_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    """A folder without a run has no report."""
    with pytest.raises(UsageError, match="holds no run"):
        write_report(LocalStore(tmp_path))


def test_figures_need_no_threads(store: LocalStore) -> None:
    """Arrow starts no threads for the figures, because at exit such threads may abort a command."""
    code = (
        "import sys, psutil; from pathlib import Path; from producer.output.run_file import RunFile; "
        "from producer.report.figures import collect_figures; from tasks.storage.local_store import LocalStore; "
        "store = LocalStore(Path(sys.argv[1])); before = psutil.Process().num_threads(); "
        "assert collect_figures(RunFile.load(store), store).summary.total == 25; "
        "print(psutil.Process().num_threads() - before)"
    )
    argv = [sys.executable, "-c", code, str(store.root)]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "0\n"
