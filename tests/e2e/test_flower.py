"""Flower's pages in a browser, as a user sees them: workers, tasks, and the Outcome of each image."""

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

from producer.local_fleet.demo_process import DemoProcess
from tests.flower import RunningFleet
from tests.integration import processes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

_SAVED = 30
_FAILED = 4
_MARKUP = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class FlowerPage:
    """A page of Flower with a logged-in user."""

    page: Page
    #: Playwright's `expect`, which waits until its condition is true.
    expect: Callable[[Locator], Any]

    def search(self, words: str, count: int = 1) -> Locator:
        """Type words into the search box of the task table; return the rows as soon as the table has ``count`` rows."""
        self.page.goto("/tasks")
        self.page.get_by_role("searchbox").fill(words)
        self.expect(self.rows).to_have_count(count)
        return self.rows

    @property
    def rows(self) -> Locator:
        """Rows of the visible table."""
        return self.page.locator("table tbody tr:has(a)")

    def cells(self, row: Locator) -> dict[str, str]:
        """Return a row's texts by column name."""
        names = self.page.locator(".dataTables_scrollHead th").evaluate_all("all => all.map(one => one.dataset.column)")
        return dict(zip(names, (text.strip() for text in row.locator("td").all_inner_texts()), strict=True))

    def details(self, name: str) -> Locator:
        """Return the value under this name on a task's page."""
        row = self.page.locator(".detail-row").filter(has=self.page.locator("dt", has_text=re.compile(f"^{name}$")))
        return row.locator("dd")


@pytest.fixture(scope="module")
def urls(demo: DemoProcess, fleet: RunningFleet) -> list[str]:
    """Run a list, wait until Flower has all events, and return the list's URLs.

    The URLs of the `_SAVED` saved images come first.
    """
    every = [f"{demo.url}/images/{number}.jpg" for number in range(_SAVED)]
    every += [f"{demo.url}/fault/not-found", f"{demo.url}/fault/html", "http://10.0.0.1/private.jpg", _MARKUP]
    numbers = fleet.run("flower", every)
    assert (numbers["success"], numbers["failed"]) == (_SAVED, _FAILED)

    def all_ended() -> bool:
        return sum(task["state"] in ("SUCCESS", "FAILURE") for task in fleet.flower.tasks().values()) == len(every) + 1

    processes.eventually(all_ended, "the events of all tasks")
    return every


@pytest.fixture
def flower(browser: Browser, fleet: RunningFleet, urls: list[str]) -> Iterator[FlowerPage]:
    """Open a page. Fail if the page logs an error or warning, contacts another host, or executes markup in a URL."""
    from playwright.sync_api import ConsoleMessage, Dialog, expect

    from docs.browser import flower_page

    url = fleet.flower.url
    problems: list[str] = []

    def log(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(message.text)

    def dismiss(dialog: Dialog) -> None:
        problems.append(dialog.message)
        dialog.dismiss()

    with flower_page(browser, url, fleet.flower.password) as page:
        page.on("console", log)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(f"{url}/") else problems.append(request.url))
        page.on("dialog", dismiss)
        yield FlowerPage(page, expect)
        assert problems == []


def test_wrong_password_is_refused(browser: Browser, fleet: RunningFleet) -> None:
    """With a wrong password, Flower serves neither pages nor static files."""
    from docs.browser import flower_page

    with flower_page(browser, fleet.flower.url, "wrong") as page:
        for path in ("/", "/tasks", "/login", "/static/css/flower.css"):
            response = page.goto(path)
            assert response is not None
            assert response.status == 401
            assert page.locator("body").inner_text() in ("Access denied", "401: Unauthorized")


def test_workers_are_online(flower: FlowerPage) -> None:
    """The page shows both workers online with their slots, and counts failed images as failed tasks."""
    flower.page.goto("/")
    flower.expect(flower.page.locator("#workers-online")).to_have_text("2")
    flower.expect(flower.page.locator("#workers-failed")).to_have_text(str(_FAILED))
    flower.expect(flower.page.locator("#workers-succeeded")).to_have_text(str(_SAVED + 1))
    flower.expect(flower.rows.get_by_text("Online", exact=True)).to_have_count(2)
    links = flower.rows.locator("a[href*='/worker/']").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert len(links) == 2
    for link in links:
        flower.page.goto(link)
        slots = flower.page.get_by_role("row").filter(has_text="Max concurrency").first
        flower.expect(slots).to_contain_text("5")


def test_task_is_found_by_its_url(flower: FlowerPage, urls: list[str]) -> None:
    """A search for a URL finds one task. The page shows the task's state, runtime, image and complete Outcome."""
    row = flower.search(urls[7])
    cells = flower.cells(row)
    assert (cells["args"], cells["state"]) == (urls[7], "SUCCESS")
    assert re.fullmatch(r"success: 400x200 jpeg, [\d,]+ bytes", cells["result"])
    assert re.fullmatch(r"[\d.]+ m?s", cells["runtime"])
    row.locator("a[href*='/task/']").click()
    flower.expect(flower.details("Status")).to_have_text("SUCCESS")
    flower.expect(flower.details("Arguments")).to_have_text(urls[7])
    flower.expect(flower.details("Result")).to_contain_text("path: 00000/00000007.jpg\n")


def test_failed_images_are_found(flower: FlowerPage, urls: list[str]) -> None:
    """Failed images are found by a search, by the button *Failed*, and by a click on a worker's number of failures."""
    found = {cells["args"]: cells for cells in map(flower.cells, flower.search("result:failed", _FAILED).all())}
    assert set(found) == set(urls[_SAVED:])
    assert {cells["state"] for cells in found.values()} == {"FAILURE"}
    assert found[urls[_SAVED]]["result"] == "failed_to_download: http_4xx (HTTP 404 Not Found)"
    assert found[urls[_SAVED + 1]]["result"].startswith("failed_to_resize: not_image (")
    flower.search("", 15)
    flower.page.get_by_role("button", name="Failed").click()
    flower.expect(flower.rows).to_have_count(_FAILED)
    flower.page.goto("/")
    flower.page.locator(".dataTables_scrollFoot").get_by_role("link", name=str(_FAILED), exact=True).click()
    flower.expect(flower.rows).to_have_count(_FAILED)


def test_reason_is_shown_in_full(flower: FlowerPage, urls: list[str]) -> None:
    """A failed task's page shows the time of the failure and the complete reason."""
    flower.search("args:10.0.0.1").locator("a[href*='/task/']").click()
    flower.expect(flower.details("Status")).to_have_text("FAILURE")
    flower.expect(flower.details("Result")).to_contain_text("reason: blocked_address\n")
    flower.expect(flower.details("Result")).to_contain_text(
        "(a worker's operator can allow it with IMAGEFLEET_ALLOW_NETWORKS)"
    )
    flower.expect(flower.details("Failed")).to_contain_text("UTC")


def test_markup_is_shown_as_text(flower: FlowerPage) -> None:
    """Markup in a list is shown as text, and the page does not execute it."""
    row = flower.search("onerror")
    assert flower.cells(row)["args"] == _MARKUP
    row.locator("a[href*='/task/']").click()
    flower.expect(flower.details("Arguments")).to_have_text(_MARKUP)


def test_shard_is_not_found_by_its_images(flower: FlowerPage) -> None:
    """The collect task shows its shard's number instead of the first Outcomes."""
    assert flower.cells(flower.search("collect_shard"))["args"] == "Outcomes of shard 0"


def test_screenshot_command_works(browser: Browser, tmp_path: Path) -> None:
    """The screenshot command works, and the screenshot in the docs has the same size as a new screenshot."""
    new = tmp_path / "flower.png"
    subprocess.run([sys.executable, "-m", "docs.screenshot", str(new)], cwd=processes.ROOT, check=True, timeout=100)
    for path in (new, processes.ROOT / "docs" / "flower.png"):
        with Image.open(path) as image, Image.open(new) as other:
            assert image.size == other.size
        assert path.stat().st_size < 200_000
