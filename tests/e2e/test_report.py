"""The report of a real run works in a browser: from a file, without network, for everyone, on all screens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page

from docs.report_pages import make_report
from tests.integration import processes

_SEVERE = ("serious", "critical")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the report of a real run of 700 images with failures."""
    return make_report(tmp_path_factory.mktemp("report"), 700)


@contextmanager
def opened(
    browser: Browser, report: Path, width: int = 1440, colours: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """Open a report from its file without network. At the end, check that the page has logged and requested nothing."""
    logged: list[str] = []
    requested: list[str] = []
    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours, offline=True) as context:
        page = context.new_page()

        def log(message: ConsoleMessage) -> None:
            logged.append(message.text)

        page.on("console", log)
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("dialog", lambda dialog: logged.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(report.as_uri())
        yield page
        assert logged == []
        assert {url for url in requested if not url.startswith("data:")} == {report.as_uri()}


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_page_is_accessible(browser: Browser, report: Path, width: int, colours: Literal["light", "dark"]) -> None:
    """axe-core finds no serious fault, and the page is not wider than the screen."""
    with opened(browser, report, width, colours) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
        severe = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found if each["impact"] in _SEVERE]
        assert severe == []


def test_figures_are_those_of_the_run(browser: Browser, report: Path) -> None:
    """The page shows the counts of the manifests, and the Total Execution Time before everything else."""
    rows = processes.rows(report.parent)
    saved = sum(row["status"] == "success" for row in rows)
    with opened(browser, report) as page:
        figures = dict(
            zip(
                page.locator("dl.figures dt").all_inner_texts(),
                page.locator("dl.figures dd").all_inner_texts(),
                strict=True,
            )
        )
        assert page.locator("h1").inner_text().startswith("Total Execution Time")
        assert figures["Saved"].startswith(str(saved))
        assert figures["Failed"].startswith(str(len(rows) - saved))
        assert page.locator("#sheet-list li").count() == 120
        widths = page.locator("#sheet-list img").evaluate_all("all => all.map(one => one.naturalWidth)")
        page.locator("#sheet-list li").last.scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        assert len(widths) == 120


def test_search_filters_rows(browser: Browser, report: Path) -> None:
    """A search shows only the rows with all its words, and says how many there are."""
    with opened(browser, report) as page:
        every = page.locator("#failed-table tbody tr").count()
        page.get_by_placeholder("key, URL, reason or message").fill("http_4xx not-found")
        shown = page.locator("#failed-table tbody tr:visible").all_inner_texts()
        assert 0 < len(shown) < every
        assert all("not-found" in text for text in shown)
        assert page.locator("#failed .found").inner_text() == f"{len(shown)} of {every}"
        page.get_by_placeholder("key or URL").fill("no such key")
        assert page.locator("#sheet-list li:visible").count() == 0


def test_headings_sort_rows(browser: Browser, report: Path) -> None:
    """A click on a heading sorts the rows by numbers, the largest first; a second click reverses them."""
    with opened(browser, report) as page:

        def values() -> list[float]:
            cells = page.locator("#slowest-table tbody tr td:nth-child(5)")
            return [float(value) for value in cells.evaluate_all("all => all.map(one => one.dataset.value)")]

        heading = page.locator("#slowest-table thead th", has_text="Body")
        heading.get_by_role("button").click()
        assert values() == sorted(values(), reverse=True)
        assert heading.get_attribute("aria-sort") == "descending"
        heading.get_by_role("button").press("Enter")
        assert values() == sorted(values())
        assert heading.get_attribute("aria-sort") == "ascending"


def test_hostile_url_is_text(browser: Browser, report: Path) -> None:
    """A URL that holds a script is shown as text, and nothing of it runs."""
    with opened(browser, report) as page:
        assert page.locator("#failed-table tr", has_text="<script>alert(1)</script>").count() > 0
        assert page.locator("script").count() == 1


def test_page_prints(browser: Browser, report: Path) -> None:
    """On paper, the page has no search fields, and dark colours become light."""
    with opened(browser, report, colours="dark") as page:
        page.emulate_media(media="print")
        assert page.locator(".search:visible").count() == 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert len(page.pdf()) > 10_000
