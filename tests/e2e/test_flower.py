"""Flower's pages in a browser, as a person sees them: workers, tasks, and what became of each image."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from producer.demo_process import DemoProcess
from tests.flower import RunningFleet
from tests.integration import parts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

_SAVED = 30
_FAILED = 4
_MARKUP = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class Seen:
    """A page of Flower, logged in."""

    page: Page
    #: Playwright's, which waits until what is expected is there.
    expect: Callable[[Locator], Any]

    def search(self, words: str, count: int = 1) -> Locator:
        """Search the tasks, as a person does; return the rows, once they are as many as they should be."""
        self.page.goto("/tasks")
        self.page.get_by_role("searchbox").fill(words)
        self.expect(self.rows).to_have_count(count)
        return self.rows

    @property
    def rows(self) -> Locator:
        """The rows of the table that is shown."""
        return self.page.locator("table tbody tr:has(a)")

    def cells(self, row: Locator) -> dict[str, str]:
        """A row's texts, by the names of their columns."""
        names = self.page.locator(".dataTables_scrollHead th").evaluate_all("all => all.map(one => one.dataset.column)")
        return dict(zip(names, (text.strip() for text in row.locator("td").all_inner_texts()), strict=True))

    def details(self, name: str) -> Locator:
        """What a task's own page says under a name."""
        row = self.page.locator(".detail-row").filter(has=self.page.locator("dt", has_text=re.compile(f"^{name}$")))
        return row.locator("dd")


@pytest.fixture(scope="module")
def urls(demo: DemoProcess, fleet: RunningFleet) -> list[str]:
    """Give the URLs of a run that the fleet has done and Flower has heard of: the first ones are saved."""
    every = [f"{demo.url}/images/{number}.jpg" for number in range(_SAVED)]
    every += [f"{demo.url}/fault/not-found", f"{demo.url}/fault/html", "http://10.0.0.1/private.jpg", _MARKUP]
    numbers = fleet.run("seen", every)
    assert (numbers["success"], numbers["failed"]) == (_SAVED, _FAILED)

    def ended() -> bool:
        return sum(task["state"] in ("SUCCESS", "FAILURE") for task in fleet.flower.tasks().values()) == len(every) + 1

    parts.eventually(ended, "the events of all tasks")
    return every


@pytest.fixture
def seen(browser: Browser, fleet: RunningFleet, urls: list[str]) -> Iterator[Seen]:
    """Give a page; whatever it does, it must not complain, ask other hosts, or run what is in a URL."""
    from playwright.sync_api import Dialog, expect

    from docs.browser import flower_page

    url = fleet.flower.url
    wrong: list[str] = []

    def refuse(dialog: Dialog) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    with flower_page(browser, url, fleet.flower.password) as page:
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(f"{url}/") else wrong.append(request.url))
        page.on("dialog", refuse)
        yield Seen(page, expect)
        assert wrong == []


def test_wrong_password_is_refused(browser: Browser, fleet: RunningFleet) -> None:
    """With a wrong password nothing is shown, not even Flower's own frame."""
    from docs.browser import flower_page

    with flower_page(browser, fleet.flower.url, "wrong") as page:
        for path in ("/", "/tasks", "/login", "/static/css/flower.css"):
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 401
            assert page.locator("body").inner_text() in ("Access denied", "401: Unauthorized")


def test_workers_are_online(seen: Seen) -> None:
    """Both workers are online, with their slots, and the images that failed are counted as failed."""
    seen.page.goto("/")
    seen.expect(seen.page.locator("#workers-online")).to_have_text("2")
    seen.expect(seen.page.locator("#workers-failed")).to_have_text(str(_FAILED))
    seen.expect(seen.page.locator("#workers-succeeded")).to_have_text(str(_SAVED + 1))
    seen.expect(seen.rows.get_by_text("Online", exact=True)).to_have_count(2)
    links = seen.rows.locator("a[href*='/worker/']").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert len(links) == 2
    for link in links:
        seen.page.goto(link)
        slots = seen.page.get_by_role("row").filter(has_text="Max concurrency").first
        seen.expect(slots).to_contain_text("5")


def test_task_is_found_by_its_url(seen: Seen, urls: list[str]) -> None:
    """A URL in the search box leads to one task, its state, its runtime, its image, and all of its Outcome."""
    row = seen.search(urls[7])
    cells = seen.cells(row)
    assert (cells["args"], cells["state"]) == (urls[7], "SUCCESS")
    assert re.fullmatch(r"success: 400x200 jpeg, [\d,]+ bytes", cells["result"])
    assert re.fullmatch(r"[\d.]+ m?s", cells["runtime"])
    row.locator("a[href*='/task/']").click()
    seen.expect(seen.details("Status")).to_have_text("SUCCESS")
    seen.expect(seen.details("Arguments")).to_have_text(urls[7])
    seen.expect(seen.details("Result")).to_contain_text("path: 00000/00000007.jpg\n")


def test_failed_images_are_found(seen: Seen, urls: list[str]) -> None:
    """A failed download is found as failed by a search, by the button, and from the count of the workers' page."""
    found = {cells["args"]: cells for cells in map(seen.cells, seen.search("result:failed", _FAILED).all())}
    assert set(found) == set(urls[_SAVED:])
    assert {cells["state"] for cells in found.values()} == {"FAILURE"}
    assert found[urls[_SAVED]]["result"] == "failed_to_download: http_4xx (HTTP 404 Not Found)"
    assert found[urls[_SAVED + 1]]["result"].startswith("failed_to_resize: not_image (")
    seen.search("", 15)
    seen.page.get_by_role("button", name="Failed").click()
    seen.expect(seen.rows).to_have_count(_FAILED)
    seen.page.goto("/")
    seen.page.locator(".dataTables_scrollFoot").get_by_role("link", name=str(_FAILED), exact=True).click()
    seen.expect(seen.rows).to_have_count(_FAILED)


def test_reason_is_shown_in_full(seen: Seen, urls: list[str]) -> None:
    """A failed task's own page has the whole reason, however long, and when it failed."""
    seen.search("args:10.0.0.1").locator("a[href*='/task/']").click()
    seen.expect(seen.details("Status")).to_have_text("FAILURE")
    seen.expect(seen.details("Result")).to_contain_text("reason: blocked_address\n")
    seen.expect(seen.details("Result")).to_contain_text(
        "(a worker's operator can allow it with IMAGEFLEET_ALLOW_NETWORKS)"
    )
    seen.expect(seen.details("Failed")).to_contain_text("UTC")


def test_markup_is_text(seen: Seen) -> None:
    """What stands in a list is shown as it stands there; the page that shows it does not run it."""
    row = seen.search("onerror")
    assert seen.cells(row)["args"] == _MARKUP
    row.locator("a[href*='/task/']").click()
    seen.expect(seen.details("Arguments")).to_have_text(_MARKUP)


def test_shard_is_not_found_by_its_images(seen: Seen) -> None:
    """The task that collects a shard says which, and not what its first images came to."""
    assert seen.cells(seen.search("collect_shard"))["args"] == "Outcomes of shard 0"


def test_picture_of_the_docs_can_be_made(browser: Browser, tmp_path: Path) -> None:
    """The command that makes the picture works, and the picture that stands in the docs is of its size."""
    made = tmp_path / "flower.png"
    subprocess.run([sys.executable, "-m", "docs.screenshot", str(made)], cwd=parts.ROOT, check=True, timeout=100)
    for path in (made, parts.ROOT / "docs" / "flower.png"):
        with Image.open(path) as picture, Image.open(made) as other:
            assert picture.size == other.size
        assert path.stat().st_size < 200_000
